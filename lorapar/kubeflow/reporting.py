"""The last task of a pipeline, whatever happened before: report, metrics and a one-page summary of the run.

KFP hands an exit handler no outputs of other tasks, so what was made is found in the ledger, from the plan on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorapar.config import CheckpointConfig
from lorapar.kubeflow.executor_input import ExecutorInput
from lorapar.kubeflow.executor_output import ExecutorOutput
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.summary import RunSummary, flat_scores, summary_text
from lorapar.kubeflow.webhook import post_summary
from lorapar.local.folder import StageRecord
from lorapar.records import json_text, read_json
from lorapar.report import ReportSources, write_report
from lorapar.stages.graph import GRAPH, Node
from lorapar.stages.plan import Plan
from lorapar.store import fetch_tree

PLANNED = "plan.json"
_SUCCEEDED = ("SUCCEEDED", "COMPLETE", "CACHED")


@dataclass(frozen=True)
class Found:
    """The records of a run by node; several for a node that is a loop."""

    plan: Plan | None = None
    records: Mapping[str, Sequence[StageRecord]] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    """Nodes that really ran in this run, as against those taken from the cache."""


def keep_plan(ledger: Ledger, record: StageRecord, plan: Plan, lanes: Mapping[str, Sequence[str]]) -> None:
    """Keep what the report starts from; `lanes` are the settings of each loop's tasks, as JSON."""
    if ledger.run:
        kept = {"record": record.model_dump(mode="json"), "plan": plan.model_dump(mode="json"), "lanes": dict(lanes)}
        ledger.write_result(PLANNED, json_text(kept).encode())


def checkpoint_settings(ledger: Ledger) -> CheckpointConfig:
    """How unfinished work is kept in this run. It decides nothing a stage makes, so it is no part of its settings."""
    kept = ledger.read_result(PLANNED) if ledger.run else None
    return Plan.model_validate(json.loads(kept)["plan"]).config.checkpoint if kept else CheckpointConfig()


def find_run(ledger: Ledger) -> Found:
    """Follow the graph from the run's plan through the records of the store, as far as tasks have finished."""
    kept = ledger.read_result(PLANNED)
    if kept is None:
        return Found()
    value = json.loads(kept)
    plan = Plan.model_validate(value["plan"])
    records: dict[str, list[StageRecord]] = {"plan": [StageRecord.model_validate(value["record"])]}
    fresh = {"plan"}
    for node in GRAPH:
        if node.stage in ("plan", "report"):
            continue
        settings = [json.loads(text) for text in value["lanes"].get(node.name, ())] or [plan.sections[node.name]]
        looked = _look(ledger, node, settings, records)
        if looked is not None:
            records[node.name] = [record for record, _ in looked]
            # Without the downward API nothing says which run a task was of, but a clock does well.
            if any(own or record.finished >= records["plan"][0].finished for record, own in looked):
                fresh.add(node.name)
    return Found(plan, records, frozenset(fresh))


def run_report(given: ExecutorInput, ledger: Ledger, work: Path) -> None:
    """Write the page, the figures and the summary: to the run's fixed place in the store, and for Kubeflow's pages."""
    found = find_run(ledger)
    page = work / "page"
    page.mkdir(parents=True, exist_ok=True)
    if found.plan is not None:
        write_report(_sources(ledger, found, work / "artifacts"), page)
    figures = read_json(page / "metrics.json") if (page / "metrics.json").is_file() else {}
    summary = _summary(given, ledger, found, figures)
    text = summary_text(summary)
    _keep(ledger, page, text, summary)
    _tell(given, page, text, figures)
    webhook = given.text("webhook", "")
    if webhook:
        post_summary(webhook, text, summary)


def _look(
    ledger: Ledger, node: Node, settings: Sequence[dict[str, Any]], records: Mapping[str, Sequence[StageRecord]]
) -> list[tuple[StageRecord, bool]] | None:
    """The records of a node's tasks and whether each ran in this run; None unless all have finished."""
    inputs: dict[str, list[str]] = {}
    for name, edges in node.inputs.items():
        inputs[name] = []
        for edge in edges:
            if edge.node not in records:
                return None
            inputs[name] += [record.outputs[edge.output] for record in records[edge.node]]
    looked = []
    for one in settings:
        record, own = ledger.find_record(node.stage, one, inputs)
        if record is None:
            return None
        looked.append((record, own))
    return looked


def _sources(ledger: Ledger, found: Found, root: Path) -> ReportSources:
    """The artifacts the report reads, fetched; those the run did not come to are left out."""
    (report,) = (node for node in GRAPH if node.stage == "report")
    many = {name for name, default in ReportSources.__dataclass_fields__.items() if default.default == ()}
    sources: dict[str, Any] = {}
    for name, edges in report.inputs.items():
        digests = [record.outputs[edge.output] for edge in edges for record in found.records.get(edge.node, ())]
        folders = []
        for number, digest in enumerate(digests):
            folder = root / f"{name}-{number}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            fetch_tree(ledger.store, ledger.read_manifest(digest), folder)
            folders.append(folder)
        sources[name] = tuple(folders) if name in many else (folders[0] if folders else None)
    return ReportSources(**sources, timings=_timings(found))


def _timings(found: Found) -> list[dict[str, Any]]:
    """Seconds (those of a loop's tasks together) and peak memory of each finished node, in the order they run."""
    return [
        {
            "node": node.name,
            "stage": node.stage,
            "seconds": sum(record.seconds for record in found.records[node.name]),
            "peak_memory_bytes": max(record.peak_memory_bytes for record in found.records[node.name]),
            "reused": node.name not in found.fresh,
        }
        for node in GRAPH
        if node.name in found.records
    ]


def _summary(given: ExecutorInput, ledger: Ledger, found: Found, figures: Mapping[str, Any]) -> RunSummary:
    status = given.inputs.parameter_values.get("status") or {}
    state = str(status.get("state", "")) if isinstance(status, dict) else ""
    finished = {node.name for node in GRAPH if node.name in found.records}
    reached = [node.name for node in GRAPH if node.name in finished]
    missing = [node.name for node in GRAPH if node.name not in finished and node.stage not in ("report", "promote")]
    return RunSummary(
        run=ledger.run,
        name=found.plan.config.name if found.plan else "",
        succeeded=state in _SUCCEEDED if state else not missing,
        promoted="promote" in finished,
        verdict=_verdict(ledger, found),
        reached=reached,
        missing=missing,
        # A stage that failed once and succeeded at a retry has a record: its error is none any more.
        errors={stage: line for stage, line in ledger.errors().items() if not _finished(stage, finished)},
        timings=_timings(found),
        figures=figures,
        place=f"{ledger.store.address}/runs/{ledger.run}",
    )


def _finished(stage: str, nodes: set[str]) -> bool:
    """Whether every node of a stage has finished."""
    return all(node.name in nodes for node in GRAPH if node.stage == stage)


def _verdict(ledger: Ledger, found: Found) -> dict[str, Any] | None:
    """What the gate said; None where the run did not get there."""
    gates = [record for name, records in found.records.items() if name == "gate" for record in records]
    if not gates:
        return None
    manifest = ledger.read_manifest(gates[0].outputs["verdict"])
    entry = manifest.files.get("verdict.json")
    if entry is None:
        return None
    verdict: dict[str, Any] = json.loads(ledger.store.read(f"cas/{entry.sha256}"))
    return verdict


def _keep(ledger: Ledger, page: Path, text: str, summary: RunSummary) -> None:
    for name in ("report.html", "metrics.json"):
        if (page / name).is_file():
            ledger.write_result(name, (page / name).read_bytes())
    ledger.write_result("summary.md", text.encode())
    ledger.write_result("outcome.json", json_text(summary.outcome()).encode())


def _tell(given: ExecutorInput, page: Path, text: str, figures: Mapping[str, Any]) -> None:
    out = ExecutorOutput(given)
    if (page / "report.html").is_file():
        out.write_file("page", (page / "report.html").read_text(encoding="utf-8"))
    else:
        out.write_file(
            "page", "<!doctype html><title>lorapar</title><p>The run failed before anything was planned.</p>"
        )
    out.write_file("summary", text)
    scores = flat_scores(figures)
    out.set_metadata("metrics", scores)
    out.write_file("metrics", json_text(scores))
    out.write()
