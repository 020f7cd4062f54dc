"""The figures of an evaluation: accuracy with intervals, loss, cost, and what changed from model to model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.evaluation.book import AnsweredBatch
from lorapar.evaluation.intervals import paired_change, wilson_interval
from lorapar.records import Answer

Figures = dict[str, Any]
RULES = {"": "strict", "lenient_": "lenient"}
"""Prefix of a figure's name, and the field of an answer that it counts."""


def model_figures(batches: Sequence[AnsweredBatch], confidence: float) -> Figures:
    """One model's figures; accuracies and intervals are None where no row of a system has a reference."""
    answers = [answer for batch in batches for answer in batch.answers]
    figures: Figures = {}
    for system in SYSTEMS:
        own = [answer for answer in answers if answer.system == system]
        figures[f"{system}_rows"] = len(own)
        figures[f"{system}_loss"] = sum(answer.loss for answer in own) / len(own) if own else None
        for prefix, field in RULES.items():
            judged = _judged(own, field)
            share = sum(judged.values()) / len(judged) if judged else None
            bounds = list(wilson_interval(sum(judged.values()), len(judged), confidence)) if judged else None
            figures[f"{system}_{prefix}accuracy"] = share
            figures[f"{system}_{prefix}interval"] = bounds
    figures["seconds_per_answer"] = sum(batch.seconds for batch in batches) / len(answers)
    figures["tokens_per_answer"] = sum(answer.tokens for answer in answers) / len(answers)
    return figures


def all_changes(answers: Mapping[str, Sequence[Answer]], confidence: float) -> dict[str, dict[str, Figures]]:
    """By system, the change from each model to the next and from the first to the last, on the same rows.

    Each is named `<before>_to_<after>` and holds difference, interval, p_value, wins, losses and rows by the strict
    rule, and the same by the lenient rule under `lenient`. Systems without a reference to compare with are left out.
    """
    names = list(answers)
    pairs = list(pairwise(names))
    if len(names) > 2:
        pairs.append((names[0], names[-1]))
    found: dict[str, dict[str, Figures]] = {}
    for system in SYSTEMS:
        for before, after in pairs:
            change = _change(answers[before], answers[after], system, confidence)
            if change is not None:
                found.setdefault(system, {})[f"{before}_to_{after}"] = change
    return found


def flat_metrics(figures: Mapping[str, Figures]) -> dict[str, float]:
    """Single numbers by `<model>_<figure>`; what is None or a list is left out."""
    return {
        f"{model}_{name}": float(value)
        for model, entries in figures.items()
        for name, value in entries.items()
        if isinstance(value, int | float)
    }


def _change(before: Sequence[Answer], after: Sequence[Answer], system: str, confidence: float) -> Figures | None:
    by_rule = {}
    for field in RULES.values():
        old, new = (
            _judged([answer for answer in answers if answer.system == system], field) for answers in (before, after)
        )
        if old:
            change = paired_change(list(old.values()), [new[row] for row in old], confidence)
            by_rule[field] = {
                "difference": change.difference,
                "interval": [change.low, change.high],
                "p_value": change.p_value,
                "wins": change.wins,
                "losses": change.losses,
                "rows": change.rows,
            }
    return {**by_rule["strict"], "lenient": by_rule["lenient"]} if by_rule else None


def _judged(answers: Sequence[Answer], field: str) -> dict[str, bool]:
    """By row, whether it was right; rows without a reference are left out."""
    verdicts = {answer.example_id: getattr(answer, field) for answer in answers}
    return {row: verdict for row, verdict in verdicts.items() if verdict is not None}
