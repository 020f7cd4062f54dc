"""metrics.json: what a run measured, for programs; and the closing table at the terminal, which is made from it.

The keys of metrics.json are stable; a metric that is not there is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lorapar.config import SYSTEMS
from lorapar.records import Omission, read_json
from lorapar.report.benchmarks import benchmark_lines
from lorapar.report.formats import MODELS, interval, model_name, p_value, percent, system_name, systems_in
from lorapar.report.outcome import changes, verdict_figures, verdict_lines
from lorapar.report.sources import Facts, overlap_of

SCHEMA_VERSION = 1
_VOTES = (
    *("calls", "calls_saved", "decided_early_share", "tokens", "tokens_saved", "edited_rows"),
    *("krippendorff_alpha", "first_round_krippendorff_alpha", "agreement", "teacher_is_base", "without_calibration"),
)
_SHARES = "shares"
"""How often a teacher said which of the named systems; of the two `system1_share` tells it."""
_TEACHER = ("round", "calls", "tokens", "system1_share", "gold_accuracy", "gold_confusion")


def metrics_of(facts: Facts) -> dict[str, Any]:
    """Everything in metrics.json; parts of the run that did not happen are null."""
    evaluation = facts.evaluation or {}
    figures = {
        "schema_version": SCHEMA_VERSION,
        "name": facts.config.name if facts.config else None,
        "seed": facts.config.seed if facts.config else None,
        "model": facts.config.model.name if facts.config else None,
        **{model: evaluation.get(model) for model in (*MODELS, "incumbent")},
        "changes": {f"{c.system}_{c.before}_to_{c.after}": _change(c) for c in changes(facts)} or None,
        "verdict": verdict_figures(facts),
        "data": _data(facts),
        "partition": _partition(facts),
        "votes": _votes(facts),
        "omissions": [
            {"stage": stage, **one.model_dump(), "line": one.line, "much": one.is_much}
            for stage, one in facts.omissions
        ],
        "timings": list(facts.timings) if facts.timings else None,
    }
    finite: dict[str, Any] = without_nan(figures)
    return finite


def without_nan(value: Any) -> Any:
    """The same value with null in place of NaN and infinities, which no JSON reader takes."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _omission(stage: str, one: Omission) -> dict[str, Any]:
    return {"stage": stage, **one.model_dump(), "line": one.line, "much": one.is_much}


def _change(change: Any) -> dict[str, Any]:
    return {
        "difference": change.difference,
        "interval": list(change.bounds),
        "p_value": change.p_value,
        "wins": change.wins,
        "losses": change.losses,
        "verdict": change.verdict,
    }


def _data(facts: Facts) -> dict[str, Any] | None:
    """Rows by split and source, and those that share their question with what is evaluated, by what evaluates it."""
    if facts.data is None:
        return None
    compared = overlap_of(facts)
    return {
        "rows": {name: split.get("rows") for name, split in (facts.data.get("splits") or {}).items()},
        "sources": facts.data.get("sources"),
        "overlap": compared.counts,
        "overlap_left_out": compared.left_out,
    }


def _partition(facts: Facts) -> dict[str, Any] | None:
    if facts.partition is None:
        return None
    single = {name: value for name, value in facts.partition.items() if isinstance(value, int | float)}
    named = facts.partition.get("systems")
    parts = {name: name for name in (*SYSTEMS, "sft", "rl")} if named is None else {name: name for name in named}
    return {
        "active_fraction": {name: single.pop(f"{key}_active_fraction", None) for name, key in parts.items()},
        **single,
    }


def _votes(facts: Facts) -> dict[str, Any] | None:
    if facts.voting is None:
        return None
    gold, rows = facts.voting.get("gold") or {}, facts.voting.get("rows") or {}
    return {
        "rows": rows.get("voted"),
        "train_rows": facts.voting.get("train_rows"),
        **{name: facts.voting.get(name) for name in _VOTES},
        "gold_accuracy": gold.get("accuracy"),
        "gold_confusion": gold.get("confusion"),
        "failed_teachers": sorted(facts.voting.get("failed") or {}),
        "teachers": {
            name: {figure: about.get(figure) for figure in (*_TEACHER, *((_SHARES,) if _SHARES in about else ()))}
            for name, about in (facts.voting.get("teachers") or {}).items()
        },
    }


def closing_table(metrics: Path) -> RenderableType:
    """Held-out scores of every model that was evaluated, and one line a system in words."""
    return metrics_table(read_json(metrics))


def metrics_table(figures: dict[str, Any]) -> RenderableType:
    """The same from the figures themselves."""
    models = [model for model in MODELS if figures.get(model)]
    if not models:
        return Text("nothing was evaluated, so there are no scores to show", style="dim")
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("held-out answers")
    systems = systems_in(figures)
    for system in systems:
        table.add_column(f"{system_name(system)} strict")
        table.add_column("lenient", justify="right", style="dim")
    for model in models:
        cells = [cell for system in systems for cell in _cells(figures[model], system)]
        table.add_row(model_name(model), *cells)
    lines = [_line(figures, system) for system in systems]
    lines += [*benchmark_lines(figures), *verdict_lines(figures.get("verdict"))]
    return Group(table, *(Text(line) for line in lines if line))


def _cells(model: dict[str, Any], system: str) -> tuple[str, str]:
    bounds = model.get(f"{system}_interval")
    strict = percent(model.get(f"{system}_accuracy"))
    return f"{strict:>6}" + (f"  ({interval(bounds, 0)})" if bounds else ""), percent(
        model.get(f"{system}_lenient_accuracy")
    )


def _line(figures: dict[str, Any], system: str) -> str | None:
    """`System 1: up after SFT (p < 0.001), within noise after RL (p = 0.45)`."""
    changes = figures.get("changes") or {}
    steps = [(after, changes.get(f"{system}_{before}_to_{after}")) for before, after in pairwise(MODELS)]
    said = [f"{one['verdict']} {model_name(after)} ({p_value(one['p_value'])})" for after, one in steps if one]
    return f"{system_name(system)}: {', '.join(said)}" if said else None


def warning_lines(metrics: Path) -> list[str]:
    """What a run left out or cut of which it was half or more, a line each, with the stage."""
    found = read_json(metrics).get("omissions") or []
    return [f"{one['stage']}: {one['line']}" for one in found if one["much"]]
