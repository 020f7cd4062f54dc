"""Tables at the terminal: the closing table of a run, made from its metrics.json, and a line for each theta."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lorapar.records import read_json
from lorapar.report.formats import (
    MODELS,
    interval,
    model_name,
    p_value,
    percent,
    system_name,
    systems_in,
)
from lorapar.report.metrics import benchmark_lines, verdict_lines

if TYPE_CHECKING:
    from lorapar.adapter import SweepRow


def closing_table(metrics: Path) -> RenderableType:
    """Held-out scores of every model that was evaluated, and one line a system in words."""
    return metrics_table(read_json(metrics))


def metrics_table(metrics: dict[str, Any]) -> RenderableType:
    """The same from the metrics themselves."""
    models = [model for model in MODELS if metrics.get(model)]
    if not models:
        return Text("nothing was evaluated, so there are no scores to show", style="dim")
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("held-out answers")
    systems = systems_in(metrics)
    for system in systems:
        table.add_column(f"{system_name(system)} strict")
        table.add_column("lenient", justify="right", style="dim")
    for model in models:
        cells = [cell for system in systems for cell in _cells(metrics[model], system)]
        table.add_row(model_name(model), *cells)
    lines = [_line(metrics, system) for system in systems]
    lines += [*benchmark_lines(metrics), *verdict_lines(metrics.get("verdict"))]
    return Group(table, *(Text(line) for line in lines if line))


def _cells(model: dict[str, Any], system: str) -> tuple[str, str]:
    bounds = model.get(f"{system}_interval")
    strict = percent(model.get(f"{system}_accuracy"))
    return f"{strict:>6}" + (f"  ({interval(bounds, 0)})" if bounds else ""), percent(
        model.get(f"{system}_lenient_accuracy")
    )


def _line(metrics: dict[str, Any], system: str) -> str | None:
    """`System 1: up after SFT (p < 0.001), within noise after RL (p = 0.45)`."""
    changes = metrics.get("changes") or {}
    steps = [(after, changes.get(f"{system}_{before}_to_{after}")) for before, after in pairwise(MODELS)]
    texts = [f"{one['verdict']} {model_name(after)} ({p_value(one['p_value'])})" for after, one in steps if one]
    return f"{system_name(system)}: {', '.join(texts)}" if texts else None


def warning_lines(metrics: Path) -> list[str]:
    """What a run left out or cut of which it was half or more, a line each, with the stage."""
    found = read_json(metrics).get("omissions") or []
    return [f"{one['stage']}: {one['line']}" for one in found if one["much"]]


def sweep_rows(rows: Sequence[SweepRow]) -> Table:
    """One line a theta: for each system its share of all elements and what of it is its own; and the sets' overlap."""
    systems, pairs = list(rows[0].active), list(rows[0].jaccard)
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("theta", justify="right")
    for system in systems:
        table.add_column(f"{system_name(system)} trains", justify="right")
        table.add_column("its own", justify="right", style="dim")
    table.add_column("shared", justify="right")
    for pair in pairs:
        table.add_column(
            "Jaccard" if len(pairs) == 1 else f"Jaccard {' / '.join(map(system_name, pair))}", justify="right"
        )
    for row in rows:
        own = [
            cell
            for system in systems
            for cell in (percent(row.active_fraction(system)), percent(row.exclusive[system] / row.total))
        ]
        shared = percent(max(row.shared.values()) / row.total)
        table.add_row(f"{row.theta:g}", *own, shared, *(f"{row.jaccard[pair]:.3f}" for pair in pairs))
    return table
