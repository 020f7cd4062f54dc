"""What other values of theta would give: the rows of `lorapar.adapter.sweep` as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lorapar.report.formats import percent, system_name
from lorapar.report.style import style_sheet
from lorapar.report.svg import Plot, picture, polyline, tag, text, whole_percent
from lorapar.store import write_atomically

if TYPE_CHECKING:
    from lorapar.adapter import SweepRow

_LINES = ("s1 dashed", "s2", "series3", "series4", "series5")


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


def sweep_plot(rows: Sequence[SweepRow], path: Path) -> None:
    """Write the same figures as a picture (SVG, one file without references): what each system trains, and Jaccard."""
    systems, pairs = list(rows[0].active), list(rows[0].jaccard)
    names = [f"{system_name(system)} trains" for system in systems] + (["Jaccard index"] if len(pairs) == 1 else [])
    styles = [*_LINES[: len(systems)], "neutral dotted"]
    plot = Plot.of("Share of elements against theta", (0.0, 1.0), (0.0, 1.0), size=(560, 380), margins=(44, 16, 46, 56))
    ordered = sorted(rows, key=lambda row: row.theta)
    columns = [[(row.theta, row.active_fraction(system)) for row in ordered] for system in systems]
    if len(pairs) == 1:
        columns.append([(row.theta, row.jaccard[pairs[0]]) for row in ordered])
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    curves = [polyline(plot.points(column), f"curve {style}") for column, style in zip(columns, styles, strict=False)]
    drawing = picture(
        plot.width,
        plot.height,
        plot.label,
        tag("style", style_sheet("charts.css")),
        tag("rect", width=plot.width, height=plot.height, class_="paper"),
        _legend(names, styles),
        plot.y_axis("share", shares, whole_percent),
        *curves,
        plot.x_axis("theta: share of the total importance kept", shares),
    )
    write_atomically(path, drawing + "\n")


def _legend(names: Sequence[str], styles: Sequence[str]) -> Markup:
    parts: list[Markup] = []
    at = 56.0
    for name, style in zip(names, styles, strict=False):
        parts += [polyline([(at, 22), (at + 24, 22)], f"curve {style}"), text(name, at + 30, 26, "tick")]
        at += 44 + 7.0 * len(name)
    return tag("g", *parts)
