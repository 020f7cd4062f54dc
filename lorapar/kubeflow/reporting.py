"""The last task of a pipeline, which runs whatever happened before: report, metrics and a summary of the run.

KFP gives an exit handler no outputs of other tasks, so it finds them in the ledger, starting from the plan.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorapar.config import CheckpointConfig
from lorapar.errors import LoraparError
from lorapar.imports import import_at_once
from lorapar.kubeflow.executor_io import ExecutorInput, ExecutorOutput
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.summary import RunSummary, flat_scores, outcome_line, summary_text
from lorapar.local.folder import StageRecord
from lorapar.records import json_text, read_json
from lorapar.redaction import redact
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import GRAPH, Node
from lorapar.store import Manifest, fetch_texts

if TYPE_CHECKING:
    from lorapar.kubeflow.planned import Lane
    from lorapar.report.sources import ReportSources
    from lorapar.stages.plan_file import Plan

PLANNED = "plan.json"
OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Found:
    """The records of a run by node; several for a node that is a loop."""

    plan: Plan | None = None
    records: Mapping[str, Sequence[StageRecord]] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    """Nodes that ran in this run and were not taken from the cache."""
    unchanged: str = ""
    """The earlier equal run, where this one ended after its plan."""
    equal_key: str = ""
    """Where the next run looks for an equal run; empty in a run that an earlier build planned."""


def keep_plan(
    ledger: Ledger, record: StageRecord, plan: Plan, lanes: Mapping[str, Sequence[Lane]], unchanged: str = ""
) -> None:
    """Write what the report starts from; `lanes` are the vote tasks of each round, `unchanged` is an equal run."""
    from lorapar.kubeflow.ledger import equal_key

    if ledger.run:
        settings = {name: [lane.settings for lane in some] for name, some in lanes.items()}
        made = {"record": record.model_dump(mode="json"), "plan": plan.model_dump(mode="json")}
        kept = {**made, "lanes": settings, "unchanged": unchanged, "equal_key": equal_key(plan)}
        ledger.write_result(PLANNED, json_text(kept).encode())


@dataclass(frozen=True)
class WayOfRunning:
    """Settings that do not affect a stage's outputs, and so are not part of its own settings."""

    checkpoint: CheckpointConfig
    """How to keep unfinished work."""
    processes: int | None
    """The most processes that work together."""
    sharding: Literal["none", "fsdp2"] = "none"


def way_of_running(ledger: Ledger) -> WayOfRunning:
    """The way of running of this run, from its plan."""
    kept = ledger.read_result(PLANNED) if ledger.run else None
    # Read only this part of the plan: checking all of it would make every task read every setting.
    config = json.loads(kept)["plan"]["config"] if kept else {}
    checkpoint = CheckpointConfig.model_validate(config.get("checkpoint", {}))
    return WayOfRunning(checkpoint, config.get("processes"), config.get("sharding", "none"))


def find_run(ledger: Ledger) -> Found:
    """Follow the graph from the run's plan through the records of the store, as far as tasks have finished."""
    from lorapar.stages.plan_file import Plan

    kept = ledger.read_result(PLANNED)
    if kept is None:
        return Found()
    value = json.loads(kept)
    plan = Plan.model_validate(value["plan"])
    records: dict[str, list[StageRecord]] = {"plan": [StageRecord.model_validate(value["record"])]}
    fresh = {"plan"}
    unchanged = str(value.get("unchanged", ""))
    own_records = ledger.own_records()
    for node in GRAPH:
        if node.stage in ("plan", "report") or unchanged:
            continue
        settings = value["lanes"].get(node.name) or [plan.sections[node.name]]
        looked = _look(ledger, node, settings, records, own_records)
        if looked is None:
            continue
        # A node that is never cached ran in this run or not at all: the record may belong to an equal run.
        if not is_cached(node.stage) and not all(own for _, own in looked):
            continue
        records[node.name] = [record for record, _ in looked]
        # Without the downward API, the run of a cached task is unknown; for a metric a clock is good enough.
        if any(own or record.finished >= records["plan"][0].finished for record, own in looked):
            fresh.add(node.name)
    return Found(plan, records, frozenset(fresh), unchanged, str(value.get("equal_key", "")))


def run_report(given: ExecutorInput, ledger_of: Callable[[], Ledger], work: Path) -> None:
    """Write the page, the metrics and the summary: to the run's fixed place in the store, and for Kubeflow's pages.

    The summary and the log name a store or webhook that does not answer. The task still succeeds: Kubeflow takes no
    page from a failed task, and marks a run as failed if its closing task fails.
    """
    page = _page_folder(work)
    try:
        ledger = ledger_of()
        summary, figures = _written(ledger, page, work)
        known = True
    except (LoraparError, OSError) as error:
        summary, figures, known = _unknown(given, error), {}, False
    if known:
        _print_line(outcome_line(summary.outcome()))
        summary = _kept(ledger, page, summary)
    text = summary_text(summary)
    webhook = given.text("webhook", "")
    if webhook:
        from lorapar.kubeflow.summary import post_summary

        try:
            post_summary(webhook, text, summary)
        except LoraparError as error:
            text = summary_text(replace(summary, problems=(*summary.problems, _line(error))))
    _write_outputs(given, page, text, figures)


def close_cancelled(ledger: Ledger, work: Path) -> bool:
    """Write the report's files for a run that somebody cancelled: Kubeflow starts no exit handler then.

    False where they exist already. Raises UnreachableError where the store cannot be read or written.
    """
    if ledger.read_result(OUTCOME_FILE) is not None:
        return False
    page = _page_folder(work)
    summary, _ = _written(ledger, page, work)
    summary = replace(summary, cancelled=True)
    _keep(ledger, page, summary_text(summary), summary)
    return True


def print_outcome(stage: str, metrics: Mapping[str, float]) -> None:
    """Print the line in the log of `gate` and `promote` that states the outcome of the run."""
    if stage == "gate":
        _print_line(outcome_line({"better": bool(metrics["better"]), "wanted": bool(metrics["promote"])}))
    elif stage == "promote":
        _print_line(outcome_line({"promoted": bool(metrics["promoted"])}))


def recorded_outcome(ledger: Ledger) -> dict[str, Any]:
    """The outcome of a run from the records of its gate and promote, where its report has written nothing.

    Unknown keys are left out.
    """
    found = find_run(ledger)
    outcome = {}
    if "gate" in found.records:
        outcome = {"better": _measured(found, "gate", "better"), "wanted": _measured(found, "gate", "promote")}
    if "promote" in found.records:
        outcome["promoted"] = _measured(found, "promote", "promoted")
    return outcome


def node_outcomes(ledger: Ledger) -> dict[str, str]:
    """SUCCEEDED or FAILED for the nodes that left a record or an error, whatever Kubeflow shows."""
    found = find_run(ledger)
    outcomes = dict.fromkeys(found.records, "SUCCEEDED")
    for stage in ledger.errors():
        for node in GRAPH:
            if node.stage == stage and node.name not in outcomes:
                outcomes[node.name] = "FAILED"
                break
    return outcomes


def _page_folder(work: Path) -> Path:
    page = work / "page"
    page.mkdir(parents=True, exist_ok=True)
    return page


def _written(ledger: Ledger, page: Path, work: Path) -> tuple[RunSummary, Mapping[str, Any]]:
    """The run from the ledger, with its page and metrics in their folder where they can be made."""
    import_at_once("lorapar.report.page")
    from lorapar.kubeflow.ledger import keep_equal
    from lorapar.report.page import write_report

    found = find_run(ledger)
    problems = []
    if found.plan is not None:
        try:
            write_report(_sources(ledger, found, work / "artifacts"), page)
        except LoraparError as error:
            problems.append(_line(error))
    figures = read_json(page / "metrics.json") if (page / "metrics.json").is_file() else {}
    summary = replace(_summary(ledger, found, figures), problems=tuple(problems))
    if found.equal_key and summary.succeeded and not summary.unchanged:
        try:
            keep_equal(ledger, found.equal_key, summary.verdict, summary.promoted)
        except (LoraparError, OSError) as error:
            summary = replace(summary, problems=(*summary.problems, _line(error)))
    return summary, figures


def _unknown(given: ExecutorInput, error: Exception) -> RunSummary:
    """The summary of a run whose store cannot be read. It repeats Kubeflow's state without relying on it.

    That is the state of a group of tasks, which stays RUNNING where its last task was skipped or taken from the cache
    (2.15 to 2.17.0, backend/src/v2/metadata/client.go, UpdateDAGExecutionsState).
    """
    status = given.inputs.parameter_values.get("status")
    state = str(status.get("state", "")) if isinstance(status, dict) else ""
    problems = [_line(error)] + ([f"Kubeflow so far reports the run as {state}"] if state else [])
    return RunSummary(
        run=given.text("run", ""),
        name="",
        succeeded=None,
        promoted=False,
        verdict=None,
        reached=(),
        missing=(),
        errors={},
        timings=(),
        problems=problems,
    )


def _kept(ledger: Ledger, page: Path, summary: RunSummary) -> RunSummary:
    """Write everything to the store; a refusal becomes a problem in the summary."""
    try:
        _keep(ledger, page, summary_text(summary), summary)
    except (LoraparError, OSError) as error:
        return replace(summary, problems=(*summary.problems, _line(error)))
    return summary


def _line(error: Exception) -> str:
    """An error as one line; also prints it to the log, where `submit --wait` looks for it."""
    line = redact(str(error))
    _print_line(f"lorapar: report: {line}")
    return line


def _print_line(line: str) -> None:
    # Kubeflow's launcher may end before its stage does.
    with suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _look(
    ledger: Ledger,
    node: Node,
    settings: Sequence[dict[str, Any]],
    records: Mapping[str, Sequence[StageRecord]],
    own_records: frozenset[str],
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
        record, own = ledger.find_record(node.stage, one, inputs, own_records)
        if record is None:
            return None
        looked.append((record, own))
    return looked


def _sources(ledger: Ledger, found: Found, root: Path) -> ReportSources:
    """Fetch the artifacts that the report reads; those the run did not reach are left out."""
    from lorapar.report.sources import ReportSources

    (report,) = (node for node in GRAPH if node.stage == "report")
    many = {name for name, default in ReportSources.__dataclass_fields__.items() if default.default == ()}
    sources: dict[str, Any] = {}
    trees: dict[Path, Manifest] = {}
    for name, edges in report.inputs.items():
        digests = [record.outputs[edge.output] for edge in edges for record in found.records.get(edge.node, ())]
        folders = [root / f"{name}-{number}" for number in range(len(digests))]
        trees.update(zip(folders, map(ledger.read_manifest, digests), strict=True))
        sources[name] = tuple(folders) if name in many else (folders[0] if folders else None)
    fetch_texts(ledger.store, trees)
    return ReportSources(**sources, timings=_timings(found))


def _timings(found: Found) -> list[dict[str, Any]]:
    """Seconds (of a loop the sum of its tasks) and peak memory of each finished node, in the order they run."""
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


def _summary(ledger: Ledger, found: Found, figures: Mapping[str, Any]) -> RunSummary:
    """The summary, judged by the records: each expected task must have left one."""
    finished = {node.name for node in GRAPH if node.name in found.records}
    missing = [node.name for node in GRAPH if node.name not in finished and _expected(node, found)]
    return RunSummary(
        run=ledger.run,
        name=found.plan.config.name if found.plan else "",
        succeeded=not missing,
        # It may have finished without moving the alias: a version that a person took out of production stays out.
        promoted=_measured(found, "promote", "promoted"),
        wanted=_measured(found, "gate", "promote"),
        unchanged=found.unchanged,
        verdict=_verdict(ledger, found),
        reached=[node.name for node in GRAPH if node.name in finished],
        missing=missing,
        # A stage that failed once and succeeded at a retry has a record: its error no longer counts.
        errors={stage: line for stage, line in ledger.errors().items() if not _finished(stage, finished)},
        timings=_timings(found),
        figures=figures,
        place=f"{ledger.store.address}/runs/{ledger.run}",
    )


def _expected(node: Node, found: Found) -> bool:
    """Whether a run that succeeds has a record of the node: one with a condition only where that was met."""
    if node.stage == "report" or (found.unchanged and node.stage != "plan"):
        return False
    if node.when is None:
        return True
    return _measured(found, node.when.node, node.when.output)


def _measured(found: Found, node: str, metric: str) -> bool:
    """Whether a finished node has a metric that is not 0."""
    return any(bool(record.metrics.get(metric)) for record in found.records.get(node, ()))


def _finished(stage: str, nodes: set[str]) -> bool:
    """Whether every node of a stage has finished."""
    return all(node.name in nodes for node in GRAPH if node.stage == stage)


def _verdict(ledger: Ledger, found: Found) -> dict[str, Any] | None:
    """The gate's verdict, without reasons where they cannot be read; None where the run did not reach the gate."""
    gates = found.records.get("gate", ())
    if not gates:
        return None
    try:
        entry = ledger.read_manifest(gates[0].outputs["verdict"]).files["verdict.json"]
        verdict: dict[str, Any] = json.loads(ledger.store.read(f"cas/{entry.sha256}"))
    except (LoraparError, KeyError, ValueError):
        return {"better": bool(gates[0].metrics.get("better"))}
    return verdict


def _keep(ledger: Ledger, page: Path, text: str, summary: RunSummary) -> None:
    for name in ("report.html", "metrics.json"):
        if (page / name).is_file():
            ledger.write_result(name, (page / name).read_bytes())
    ledger.write_result("summary.md", text.encode())
    ledger.write_result(OUTCOME_FILE, json_text(summary.outcome()).encode())


def _write_outputs(given: ExecutorInput, page: Path, text: str, figures: Mapping[str, Any]) -> None:
    out = ExecutorOutput(given)
    if (page / "report.html").is_file():
        out.write_file("page", (page / "report.html").read_text(encoding="utf-8"))
    else:
        out.write_file(
            "page",
            "<!doctype html><title>lorapar</title><p>Nothing can be shown: the run failed before anything was planned, "
            "or its store could not be read; the summary says which.</p>",
        )
    out.write_file("summary", text)
    scores = flat_scores(figures)
    out.set_metadata("metrics", scores)
    out.write_file("metrics", json_text(scores))
    out.write()
