"""What a person sees of a task in Kubeflow's own pages, beside metrics and digests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorapar.kubeflow.executor_output import ExecutorOutput
from lorapar.kubeflow.score_page import score_page
from lorapar.kubeflow.summary import plain
from lorapar.records import read_json

Outputs = Mapping[str, Path]


def show(out: ExecutorOutput, stage: str, outputs: Outputs) -> None:
    """Fill the output parameters and artifacts that only this stage has; nothing for most."""
    teller = _TELLERS.get(stage)
    if teller is not None:
        teller(out, outputs)


def _tally(out: ExecutorOutput, outputs: Outputs) -> None:
    """The vote against the systems the data names, as a confusion matrix; nothing where the data names none."""
    summary = read_json(outputs["labels"] / "summary.json")
    if summary.get("gold"):
        out.set_metadata("confusion", confusion_matrix(summary["gold"]["confusion"]))
        out.write_file("confusion", "")


def _gate(out: ExecutorOutput, outputs: Outputs) -> None:
    """The verdict in words."""
    verdict = read_json(outputs["verdict"] / "verdict.json")
    better = bool(verdict["better"])
    reasons = "\n".join(f"- {plain(str(reason))}" for reason in verdict["reasons"])
    out.write_file("summary", f"# {'Better' if better else 'Not better'} than what serves today\n\n{reasons}\n")
    out.set_metadata("summary", {"better": better})


def _evaluate(out: ExecutorOutput, outputs: Outputs) -> None:
    """The scores as a table, with what of a change is more than noise."""
    out.write_file("summary", score_page(read_json(outputs["evaluation"] / "summary.json")))


def confusion_matrix(table: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """`{true: {voted: rows}}` as the metadata of system.ClassificationMetrics."""
    known = sorted({*table, *(voted for row in table.values() for voted in row)})
    return {
        "confusionMatrix": {
            "annotationSpecs": [{"displayName": name} for name in known],
            "rows": [{"row": [table.get(true, {}).get(voted, 0) for voted in known]} for true in known],
        }
    }


_TELLERS: Mapping[str, Callable[[ExecutorOutput, Outputs], None]] = {
    "tally": _tally,
    "evaluate": _evaluate,
    "gate": _gate,
}
