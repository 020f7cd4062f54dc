"""The results, at the top of the run folder: report, metrics, adapter, lineage."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorapar.config import RunConfig
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.records import read_json
from lorapar.report.metrics import verdict_metrics
from lorapar.report.page import write_report
from lorapar.report.sources import ReportSources, read_facts
from lorapar.stages.graph import GRAPH, Node
from lorapar.stages.plan_file import read_plan
from lorapar.store import MANIFEST, replace_folder
from lorapar.store.file_system import copy_files
from lorapar.tracking import Summary, flat


def write_results(folder: RunFolder, ran: set[str]) -> None:
    """The published adapter, its lineage, the report and the metrics, of the last plan only.

    An adapter that an earlier run with other settings left is taken away: beside this run's report it would be taken
    for this run's (it stays in `stages/publish` until its stage runs again).
    """
    if "publish" in current_records(folder):
        _copy_adapter(folder)
    else:
        shutil.rmtree(folder.root / "adapter", ignore_errors=True)
        (folder.root / "lineage.json").unlink(missing_ok=True)
    write_run_report(folder, ran)


def results_so_far(folder: RunFolder) -> None:
    """The results of a run that failed; the failure itself matters more than results that cannot be written."""
    try:
        write_results(folder, set())
    except Exception as error:
        with suppress(OSError):
            (folder.root / "report-error.txt").write_text(f"{error}\n", encoding="utf-8")


def tracked_summary(folder: RunFolder, config: RunConfig, *, finished: bool) -> Summary:
    """What experiment trackers are sent at the end: every metric of metrics.json, every setting, and the files."""
    file = folder.root / "metrics.json"
    leaves = flat(read_json(file)) if file.is_file() else ()
    metrics = {name: float(value) for name, value in leaves if isinstance(value, bool | int | float)}
    settings = {name: str(value) for name, value in flat(config.model_dump(mode="json"))}
    records = current_records(folder)
    curves: dict[str, list[dict[str, Any]]] = {
        stage: [json.loads(line) for line in (folder.artifact(stage, "adapter") / "history.jsonl").open()]
        for stage in ("sft", "rl")
        if stage in records
    }
    names = ("config.yaml", "report.html", "metrics.json", "lineage.json", "adapter")
    rollouts = folder.artifact("rl", "adapter") / "rollouts.jsonl"
    kept = rollouts if "rl" in records and rollouts.is_file() else None
    return Summary(finished, metrics, settings, curves, [folder.root / name for name in names], kept)


def _copy_adapter(folder: RunFolder) -> None:
    scratch = folder.root / "work" / "adapter"
    shutil.rmtree(scratch, ignore_errors=True)
    copy_files(folder.artifact("publish", "adapter"), scratch, left_out=(MANIFEST,))
    shutil.copyfile(scratch / "lineage.json", folder.root / "lineage.json")
    replace_folder(scratch, folder.root / "adapter")
    with suppress(OSError):
        scratch.parent.rmdir()  # only where no unfinished work is in it


def write_run_report(folder: RunFolder, ran: set[str] | None = None) -> Path | None:
    """Write report.html and metrics.json from whatever has finished; returns the report's path, None for nothing."""
    records = current_records(folder)
    if not records:
        return None
    write_report(report_sources(folder, records, ran), folder.root)
    return folder.root / "report.html"


def current_verdict(folder: RunFolder) -> dict[str, Any] | None:
    """The verdict of the last plan, as metrics.json has it; None where the run has not come to one."""
    records = current_records(folder)
    return verdict_metrics(read_facts(report_sources(folder, records, None))) if "gate" in records else None


def current_records(folder: RunFolder) -> dict[str, StageRecord]:
    """Records that belong to the last plan: its settings, made from inputs that are themselves current.

    After a change of settings and a failure half-way, what later stages made in an earlier run is still there; it
    must not be mixed into the report of this one.
    """
    plan = folder.record("plan")
    if plan is None:
        return {}
    sections = read_plan(folder.artifact("plan", "plan")).sections
    current = {"plan": plan}
    for node in GRAPH:
        record = folder.record(node.name)
        if record is not None and record.settings == sections.get(node.name) and _inputs_current(node, record, current):
            current[node.name] = record
    return current


def _inputs_current(node: Node, record: StageRecord, current: dict[str, StageRecord]) -> bool:
    for name, edges in node.inputs.items():
        for edge, digest in zip(edges, record.inputs.get(name, []), strict=False):
            upstream = current.get(edge.node)
            if upstream is None or upstream.outputs.get(edge.output) != digest:
                return False
    return True


def report_sources(folder: RunFolder, records: dict[str, StageRecord], ran: set[str] | None) -> ReportSources:
    """The artifacts the report stage would read, those that are missing left out, and the timings."""
    found: dict[str, Any] = {"promotion": folder.artifact("promote", "promotion") if "promote" in records else None}
    for name, edges in GRAPH[-1].inputs.items():
        present = tuple(folder.artifact(edge.node, edge.output) for edge in edges if edge.node in records)
        found[name] = present if len(edges) > 1 else (present[0] if present else None)
    return ReportSources(**found, timings=timings(records, ran), run=folder.root)


def timings(records: dict[str, StageRecord], ran: set[str] | None) -> list[dict[str, Any]]:
    """Seconds and peak memory of each finished node, in the order they run."""
    return [
        {
            "node": node.name,
            "stage": node.stage,
            "seconds": records[node.name].seconds,
            "peak_memory_bytes": records[node.name].peak_memory_bytes,
            "reused": ran is not None and node.name not in ran,
        }
        for node in GRAPH
        if node.name in records
    ]
