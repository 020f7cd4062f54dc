"""The exit task finds what a run has made, however far it came."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.parameters import PARAMETERS
from lorapar.kubeflow.summary import RunSummary, summary_text
from lorapar.kubeflow.webhook import post_summary

MIX = "data.task_mix={system1_train: 3, system1_heldout: 2, system2_train: 3, system2_heldout: 2}"


def planned(cluster, run="run-1"):
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    values |= {"config": "preset:tiny", "overrides": MIX, "store": cluster.address, "run": run}
    return cluster.run("plan", values | {"vote_accelerators": "1"}, ["plan"], ["prepare_settings"]).parameter_values


def reported(cluster, run="run-1", state="FAILED"):
    values = {"store": cluster.address, "run": run, "webhook": "", "status": {"state": state}}
    cluster.run("report", values, ["page", "summary"])
    folder = cluster.root / f"task-{cluster.count}" / "out"
    return (folder / "page").read_text(encoding="utf-8"), (folder / "summary").read_text(encoding="utf-8")


def test_a_run_that_failed_half_way_shows_what_it_made_and_what_failed(cluster, monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_RUN", "run-1")
    given = planned(cluster)
    cluster.run("prepare", {"settings": given["prepare_settings"].string_value, "store": cluster.address}, ["examples"])
    with pytest.raises(BadInputError):
        cluster.run("vote", {"settings": "{}", "store": cluster.address, "examples_digest": "0" * 64}, ["votes"])
    page, summary = reported(cluster)
    assert page.lstrip().lower().startswith("<!doctype html")
    assert summary.startswith("# Failed: run `tiny`")
    assert "| prepare |" in summary
    assert "| rl | | not reached |" in summary
    assert "**vote**: settings of vote" in summary
    outcome = json.loads(cluster.store.read("runs/run-1/outcome.json"))
    assert outcome["succeeded"] is False
    assert "vote-first" in outcome["missing"]
    assert json.loads(cluster.store.read("runs/run-1/metrics.json"))["name"] == "tiny"


def test_a_run_that_was_not_even_planned_has_a_summary(cluster) -> None:
    page, summary = reported(cluster, run="run-2")
    assert "before anything was planned" in page
    assert summary.startswith("# Failed: run")


def test_a_task_from_the_cache_is_found_by_another_run(cluster, monkeypatch) -> None:
    """KFP runs nothing on a cache hit: the record is that of the run which did the work."""
    monkeypatch.setenv("LORAPAR_RUN", "run-1")
    given = planned(cluster)
    cluster.run("prepare", {"settings": given["prepare_settings"].string_value, "store": cluster.address}, ["examples"])
    monkeypatch.setenv("LORAPAR_RUN", "run-2")
    settings = json.loads(given["prepare_settings"].string_value)
    record, own = Ledger(cluster.store, "run-2").find_record("prepare", settings, {})
    assert record is not None
    assert not own
    _, own = Ledger(cluster.store, "run-1").find_record(
        "prepare", json.loads(given["prepare_settings"].string_value), {}
    )
    assert own


@pytest.mark.parametrize("run", ["../x", "a/b", "-x", "x" * 200])
def test_a_run_that_is_no_name_never_becomes_a_key(cluster, run) -> None:
    with pytest.raises(BadInputError, match="no name of a run"):
        Ledger(cluster.store, run)


def summary_of(**changes) -> RunSummary:
    values = {"run": "r", "name": "n", "succeeded": True, "promoted": False, "verdict": None, "reached": []}
    values |= {"missing": [], "errors": {}, "timings": []} | changes
    return RunSummary(**values)


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        ({"promoted": True, "verdict": {"better": True, "reasons": ["up <b>"]}}, "# Promoted: run `n`\n\n- up \\<b\\>"),
        ({"verdict": {"better": False, "reasons": []}}, "# Not better: run `n`"),
        ({"verdict": {"better": True}}, "# Better, not promoted: run `n`"),
        ({"succeeded": False}, "# Failed: run `n`"),
    ],
)
def test_the_first_line_says_how_it_ended(changes, head) -> None:
    assert summary_text(summary_of(**changes)).startswith(head)


def test_the_webhook_gets_the_summary_and_an_outage_names_the_host_only() -> None:
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == "/token" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    post_summary(f"{where}/token", "# page", summary_of())
    assert got[0]["text"] == "# page"
    assert got[0]["outcome"]["succeeded"] is True
    with pytest.raises(UnreachableError) as refused:
        post_summary(f"{where}/secret-token", "# page", summary_of())
    assert "secret-token" not in str(refused.value)
    server.shutdown()
    with pytest.raises(BadInputError, match="webhook"):
        post_summary("file:///etc/passwd", "", summary_of())
