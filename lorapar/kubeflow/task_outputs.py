"""What a task reports to Kubeflow: digests for other tasks; pages, lineage and a few metrics for people.

It reports only what helps a person who looks at a run; the report and the store's records have everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import SYSTEMS
from lorapar.kubeflow.executor_io import ExecutorOutput, flat_metrics
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.summary import plain, score_page
from lorapar.kubeflow.tasks import LOOPED_NODE, digest_parameter, output_port, task_of
from lorapar.local.folder import StageRecord
from lorapar.records import digest_of, json_text, read_json
from lorapar.report.formats import MODELS
from lorapar.stages.graph import Edge, Node
from lorapar.store import Manifest

if TYPE_CHECKING:
    from lorapar.kubeflow.planned import PlannedRun
    from lorapar.stages.plan_file import Plan

FolderOf = Callable[[str], Path]
"""Returns the folder of an artifact by its digest; fetches it if it is not on this machine."""

_SCORED = ("rows", "seconds_per_row", "total_importance")
FIGURES: Mapping[str, tuple[str, ...]] = {
    "vote-first": ("rows", "calls", "cached_votes", "failed_teachers"),
    "vote-rest": ("system1_rows", "system2_rows", "krippendorff_alpha", "vote_accuracy"),
    "score-system1": _SCORED,
    "score-system2": _SCORED,
    "partition": ("system1_active_fraction", "system2_active_fraction", "shared_fraction", "jaccard"),
    "sft": ("sft_loss_first", "sft_loss_last", "steps", "active_fraction"),
    "rl": ("reward_first", "reward_last", "kl_last", "steps"),
    "evaluate": tuple(f"{model}_{system}_accuracy" for system in SYSTEMS for model in (MODELS[0], MODELS[-1])),
    "gate": ("better", "difference", "p_value", "promoted"),
}
"""The three or four metrics that Kubeflow shows of each task, and its MLflow plugin logs (2.17.0,
backend/src/v2/common/plugins/mlflow/handler.go, LogBatch of ScalarMetrics); the report has all of them."""


def show_node(out: ExecutorOutput, node: Node, record: StageRecord, ledger: Ledger, folder_of: FolderOf) -> None:
    """The digest of each output as a parameter, its manifest and lineage as an artifact, and the node's page."""
    task = task_of(node.name)
    for output, digest in record.outputs.items():
        port = output_port(task, output)
        out.set_parameter(digest_parameter(Edge(node.name, output)), digest)
        if out.artifact(port) is not None:
            manifest = ledger.read_manifest(digest)
            out.write_file(port, manifest.model_dump_json(indent=2) + "\n")
            out.set_metadata(port, _lineage(record, manifest))
    teller = _TELLERS.get(node.name)
    if teller is not None:
        teller(out, record, folder_of)


def show_metrics(out: ExecutorOutput, records: Sequence[StageRecord]) -> None:
    """The metrics of a task, as system.Metrics shows them; where several of its nodes have one, the last one counts."""
    names = _of_systems(FIGURES.get(task_of(records[0].node).name, ()), records)
    figures: dict[str, float] = {}
    for record in records:
        figures |= flat_metrics(record.metrics)
    shown = {name: figures[name] for name in names if name in figures}
    out.set_metadata("metrics", shown)
    out.write_file("metrics", json_text(shown))


def _of_systems(names: Sequence[str], records: Sequence[StageRecord]) -> tuple[str, ...]:
    """These metrics for each system that the records' settings name; at least the paper's two."""
    systems = next(
        (record.settings["system_names"] for record in records if "system_names" in record.settings), SYSTEMS
    )
    if tuple(systems) == SYSTEMS:
        return tuple(names)
    found: list[str] = []
    for name in names:
        place = next((system for system in SYSTEMS if system in name), None)
        found += [name] if place is None else [name.replace(place, system) for system in systems]
    return tuple(dict.fromkeys(found))


def show_plan(out: ExecutorOutput, plan: Plan, planned: PlannedRun, ledger: Ledger, before: str | None) -> None:
    """The other tasks' settings and the page of what will run; no settings where run `before` is equal."""
    from lorapar.kubeflow.planned import plan_page

    digests = {name: ledger.write_settings(settings) for name, settings in planned.settings.items()}
    out.set_parameter("settings", json.dumps(digests))
    lanes = [
        {"settings": ledger.write_settings({LOOPED_NODE: lane.settings}), "accelerators": lane.accelerators}
        for lane in planned.lanes[LOOPED_NODE]
    ]
    out.set_parameter("vote_first_lanes", lanes)
    (rest,) = planned.lanes["vote-rest"]
    out.set_parameter("vote_rest_accelerators", rest.accelerators)
    out.set_parameter("vote_pool", planned.vote_pool)
    # The driver of later tasks asks for every parameter, whether they run or not.
    out.set_parameter("examples_digest", "")
    out.set_parameter("changed", before is None)
    page = (
        plan_page(plan.config, planned.lanes, planned.accelerators, plan.number_format)
        if before is None
        else f"# Nothing changed since run `{before}`\n"
    )
    out.write_file("summary", page)


def _lineage(record: StageRecord, manifest: Manifest) -> dict[str, Any]:
    """What an artifact holds, and the digests that lead to its record in the store."""
    return {
        "digest": manifest.digest,
        "kind": manifest.kind,
        "files": len(manifest.files),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "lorapar_version": record.version,
        "record": digest_of({"stage": record.stage, "settings": record.settings, "inputs": record.inputs}),
    }


def _tally(out: ExecutorOutput, record: StageRecord, folder_of: FolderOf) -> None:
    """The vote against the systems that the data names, as a confusion matrix; empty where the data names none."""
    summary = read_json(folder_of(record.outputs["labels"]) / "summary.json")
    if summary.get("gold"):
        out.set_metadata("confusion", confusion_matrix(summary["gold"]["confusion"]))


def _gate(out: ExecutorOutput, record: StageRecord, folder_of: FolderOf) -> None:
    """A page with the verdict."""
    verdict = read_json(folder_of(record.outputs["verdict"]) / "verdict.json")
    better = bool(verdict["better"])
    reasons = "\n".join(f"- {plain(str(reason))}" for reason in verdict["reasons"])
    out.write_file("summary", f"# {'Better' if better else 'Not better'} than what serves today\n\n{reasons}\n")
    out.set_metadata("summary", {"better": better})


def _evaluate(out: ExecutorOutput, record: StageRecord, folder_of: FolderOf) -> None:
    """The scores as a table, and which changes are more than noise."""
    out.write_file("summary", score_page(read_json(folder_of(record.outputs["evaluation"]) / "summary.json")))


def confusion_matrix(table: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """`{true: {voted: rows}}` as the metadata of system.ClassificationMetrics."""
    known = sorted({*table, *(voted for row in table.values() for voted in row)})
    return {
        "confusionMatrix": {
            "annotationSpecs": [{"displayName": name} for name in known],
            "rows": [{"row": [table.get(true, {}).get(voted, 0) for voted in known]} for true in known],
        }
    }


_TELLERS: Mapping[str, Callable[[ExecutorOutput, StageRecord, FolderOf], None]] = {
    "tally": _tally,
    "evaluate": _evaluate,
    "execute": _evaluate,
    "gate": _gate,
}
