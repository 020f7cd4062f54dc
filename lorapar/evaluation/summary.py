"""The metrics of an evaluation: accuracy with intervals, loss, cost, and what changed from model to model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.evaluation.answer_journal import AnsweredBatch
from lorapar.evaluation.intervals import paired_change, wilson_interval
from lorapar.records import Answer, Omission, System

Metrics = dict[str, Any]
RULES = {"": "strict", "lenient_": "lenient"}
"""Prefix of a metric's name, and the field of an answer that it counts."""


def model_metrics(batches: Sequence[AnsweredBatch], confidence: float, systems: Sequence[System] = SYSTEMS) -> Metrics:
    """One model's metrics on the held-out rows; accuracies are None where no row of a system has a reference."""
    answers = [answer for batch in batches for answer in batch.answers]
    metrics: Metrics = {}
    for system in systems:
        own = [answer for answer in answers if answer.system == system]
        losses = [answer.loss for answer in own if answer.loss is not None]
        metrics[f"{system}_rows"] = len(own)
        metrics[f"{system}_loss"] = sum(losses) / len(losses) if losses else None
        metrics[f"{system}_cut_off"] = cut_off_share(own)
        metrics |= {f"{system}_{name}": value for name, value in score_metrics(own, confidence).items()}
    return metrics | cost_metrics(answers, sum(batch.seconds for batch in batches))


def benchmark_metrics(answers: Sequence[Answer], seconds: float, confidence: float) -> Metrics:
    """One model's metrics on one benchmark; accuracies are None where its answers are code that was not run yet."""
    counts = {"rows": len(answers), "cut_off": cut_off_share(answers)}
    return {**counts, **score_metrics(answers, confidence), **cost_metrics(answers, seconds)}


def cut_off_share(answers: Sequence[Answer]) -> float | None:
    """Share of the answers that had not ended at the limit; None of no answers."""
    return sum(bool(answer.cut_off) for answer in answers) / len(answers) if answers else None


def cut_answers(answers: Sequence[Answer], model: str, limit: int, setting: str) -> Omission:
    """A model's answers that had not ended at a limit of tokens."""
    return Omission(
        count=sum(bool(answer.cut_off) for answer in answers),
        total=len(answers),
        what=f"answers of {model} cut off",
        why=f"they had not ended after {limit:,} tokens, and most count as wrong",
        remedy=f"raise {setting}",
    )


def score_metrics(answers: Sequence[Answer], confidence: float) -> Metrics:
    """Share of right answers by both rules, each with its interval; None where nothing was judged.

    For generated code, of which one answer a problem is drawn, the share that passes its tests is pass@1.
    """
    metrics: Metrics = {}
    for prefix, field in RULES.items():
        judged = _judged(answers, field)
        right = sum(judged.values())
        metrics[f"{prefix}accuracy"] = right / len(judged) if judged else None
        metrics[f"{prefix}interval"] = list(wilson_interval(right, len(judged), confidence)) if judged else None
    return metrics


def cost_metrics(answers: Sequence[Answer], seconds: float) -> Metrics:
    """What an answer took, in time and in tokens."""
    return {
        "seconds_per_answer": seconds / len(answers),
        "tokens_per_answer": sum(answer.tokens for answer in answers) / len(answers),
    }


def all_changes(answers: Mapping[str, Sequence[Answer]], confidence: float) -> dict[str, dict[str, Metrics]]:
    """By system or benchmark, the change from each model to the next and from the first to the last, on the same rows.

    Each is named `<before>_to_<after>` and holds difference, interval, p_value, wins, losses and rows by the strict
    rule, and the same by the lenient rule under `lenient`. What has no reference to compare with is left out.
    """
    names = list(answers)
    pairs = list(pairwise(names))
    if len(names) > 2:
        pairs.append((names[0], names[-1]))
    # In the order in which the first model was asked, so systems before benchmarks.
    measures = dict.fromkeys(answer.measure for answer in answers[names[0]])
    found: dict[str, dict[str, Metrics]] = {}
    for measure in measures:
        for before, after in pairs:
            change = _change(answers[before], answers[after], measure, confidence)
            if change is not None:
                found.setdefault(measure, {})[f"{before}_to_{after}"] = change
    return found


def flat_metrics(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Single numbers by `<model>_<metric>` and `<model>_<benchmark>_<metric>`; what is None or a list is left out."""
    flat: dict[str, float] = {}
    for model, entries in metrics.items():
        for name, value in entries.items():
            if isinstance(value, int | float):
                flat[f"{model}_{name}"] = float(value)
        flat |= flat_metrics({f"{model}_{name}": entry for name, entry in entries.get("benchmarks", {}).items()})
    return flat


def _change(before: Sequence[Answer], after: Sequence[Answer], measure: str, confidence: float) -> Metrics | None:
    by_rule = {}
    for field in RULES.values():
        old, new = (
            _judged([answer for answer in answers if answer.measure == measure], field) for answers in (before, after)
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
