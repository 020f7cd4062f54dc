"""Held-out scores as Markdown: a table for the run's summary, a page for `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar.report.formats import NOTHING, interval, model_name, percent, system_name, systems_in
from lorapar.report.scores import ASKED_MODELS, Benchmark, Change, benchmarks, changes
from lorapar.report.sources import Facts

Figures = Mapping[str, Any]


def score_table(figures: Figures) -> str:
    """A row for each evaluated model: strict (with interval) and lenient scores by system; empty without a model."""
    models = [model for model in ASKED_MODELS if figures.get(model)]
    if not models:
        return ""
    systems = systems_in(figures)
    head = "| held-out answers | " + " | ".join(f"{system_name(system)} strict | lenient" for system in systems) + " |"
    rows = [_row(model_name(model), figures[model], systems) for model in models]
    return "\n".join([head, "|---" * (1 + 2 * len(systems)) + "|", *rows])


def score_page(summary: Figures) -> str:
    """The page, from the summary.json of an evaluation."""
    facts = Facts(evaluation=summary)
    parts = ["# Held-out scores", score_table(summary), *map(_benchmark, benchmarks(facts))]
    moved = [f"- {_who(change)}: {change.sentence}" for change in changes(facts)]
    if moved:
        parts.append("## Changes\n\n" + "\n".join(moved))
    return "\n\n".join(parts) + "\n"


def _row(name: str, model: Figures, systems: Sequence[str]) -> str:
    cells = [name]
    for system in systems:
        bounds = model.get(f"{system}_interval")
        cells.append(_with(percent(model.get(f"{system}_accuracy")), interval(bounds, 0)))
        cells.append(percent(model.get(f"{system}_lenient_accuracy")))
    return "| " + " | ".join(cells) + " |"


def _benchmark(benchmark: Benchmark) -> str:
    """Answers that are code have no figure yet: `execute` runs them."""
    rows = [
        f"| {row.model} | {row.rows} | {_with(row.strict, row.strict_interval)} | {row.lenient} |"
        for row in benchmark.rows
    ]
    table = [f"## {benchmark.title}\n", "| model | rows | strict | lenient |", "|---|---|---|---|", *rows]
    return "\n".join([*table, *(f"\n{note}" for note in benchmark.notes)])


def _with(score: str, bounds: str) -> str:
    return score if bounds == NOTHING else f"{score} ({bounds})"


def _who(change: Change) -> str:
    return f"{system_name(change.system)}, {model_name(change.before)} to {model_name(change.after)}"
