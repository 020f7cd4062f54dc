"""Alerts, dashboard and scalers ask Prometheus for what the servers really show, in queries that parse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.helm.chart import CHART, EVERYTHING, ROOT, of_kind, only, render

# Read from the real vLLM by tests/helm/vllm_surface.py; `make integration-chart` compares.
VLLM_METRICS = set(json.loads((Path(__file__).parent / "vllm_surface.json").read_text(encoding="utf-8"))["metrics"])
# What Prometheus itself adds to every target.
PROMETHEUS_METRICS = {"up"}
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return only(render(values=EVERYTHING), "PrometheusRule")["spec"]["groups"][0]["rules"]


def queries() -> Iterator[tuple[str, str]]:
    """(where, query) of everything that asks Prometheus."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for scaler in of_kind(render(values=EVERYTHING), "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield scaler["metadata"]["name"], trigger["metadata"]["query"]


QUERIES = list(queries())


def shown_by_lorapar() -> dict[str, set[str]]:
    """Metric names that the middleware shows, with their labels, read from where they are declared."""
    import ast

    found: dict[str, set[str]] = {}
    suffixes = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
    source = (ROOT / "lorapar" / "serving" / "metrics.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in suffixes:
            name, _, *labels = (ast.literal_eval(argument) for argument in node.args)
            for suffix in suffixes[node.func.id]:
                found[name + suffix] = set(labels[0] if labels else ())
    return found


def metrics_of(query: str) -> set[str]:
    """Names of the metrics that the parsed query selects; raises ValueError for what Prometheus would not read."""
    names: set[str] = set()

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            names.add(part.name)

    promql_parser.walk(promql_parser.parse(query), visit)
    return names


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_query_gives_one_value_a_series(where: str, query: str) -> None:
    """A range, a text or a bare number parses too, and no rule, panel or scaler can use one."""
    kind = type(promql_parser.parse(query))
    unusable = (promql_parser.MatrixSelector, promql_parser.StringLiteral, promql_parser.NumberLiteral)
    assert not issubclass(kind, unusable), kind.__name__


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_query_asks_for_metrics_that_there_are(where: str, query: str) -> None:
    names = metrics_of(query)
    assert names, "asks for nothing"
    assert names <= VLLM_METRICS | PROMETHEUS_METRICS | set(shown_by_lorapar())


TARGET_LABELS = {"namespace", "service", "pod", "le"}


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_query_groups_by_labels_that_the_metric_has(where: str, query: str) -> None:
    """A misspelt label would not fail: it would be an empty one."""
    declared = shown_by_lorapar()
    own = {name for name in declared if name in query}
    labels = set().union(*(declared[name] for name in own)) if own else set()
    for group in re.findall(r"by \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= labels | TARGET_LABELS


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_alert_uses_labels_that_its_query_leaves(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
    grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
    if grouped:
        kept = {label.strip() for label in grouped[0].split(",")}
    else:
        kept = {"pod", "adapter", "alias", "version"} if "sum(" not in rule["expr"] else set()
    assert used <= kept, f"{used - kept} are gone after aggregation"


def test_every_alert_says_what_it_means_and_has_a_section_in_the_docs() -> None:
    page = (ROOT / "docs" / "platform" / "operations.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.search(rf"^### {rule['alert']}$", page, re.MULTILINE), rule["alert"]
    described = set(re.findall(r"^### (Lorapar\w+)$", page, re.MULTILINE))
    assert described == {rule["alert"] for rule in rules()}


def test_alerts_link_to_their_section() -> None:
    values = {**EVERYTHING, "monitoring": {"prometheusRule": {"enabled": True, "runbook": "https://x.example.com/ops"}}}
    (first, *_) = only(render(values=values), "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert first["annotations"]["runbook_url"] == f"https://x.example.com/ops#{first['alert'].lower()}"


def test_thresholds_are_values() -> None:
    monitoring = {"enabled": True, "errorShare": 0.5, "firstTokenSeconds": 9, "waitingRequests": 77}
    values = {**EVERYTHING, "monitoring": {"prometheusRule": monitoring}}
    text = json.dumps(only(render(values=values), "PrometheusRule"))
    for threshold in ("> 0.5", "> 9", "> 77"):
        assert threshold in text


def test_dashboard_shows_requests_tokens_versions_and_verdicts() -> None:
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    assert {"Requests a second", "Tokens a second", "Versions of the aliases", "Gate verdicts"} <= titles
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] for panel in DASHBOARD["panels"])


def test_dashboard_panels_do_not_overlap() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert cells.setdefault((x, y), panel["title"]) == panel["title"]


def test_dashboard_arrives_in_the_configmap_as_it_is() -> None:
    data = only(render(values=EVERYTHING), "ConfigMap", "-dashboard")["data"]["lorapar-serving.json"]
    assert json.loads(data) == DASHBOARD
