"""Which elements were trained: regions, importance scatter and heat maps; and what other values of theta would give.

Colours follow the paper's figure (System 1 red, System 2 blue, shared purple), in shades that people who see few
colours can tell apart by brightness. An adapter's model card has some of the same drawings, each as an SVG file that
needs nothing beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lorapar.report.formats import count_of, number, percent, system_name
from lorapar.report.sources import Facts, ReportSources, Values, read_facts
from lorapar.report.svg import (
    Plot,
    Scale,
    dots,
    group,
    line,
    picture,
    polyline,
    power_of_ten,
    style_sheet,
    tag,
    text,
    whole_percent,
)
from lorapar.report.training import rl_curves
from lorapar.store import write_atomically

if TYPE_CHECKING:
    from lorapar.adapter import SweepRow

_NAMED_COLOURS = ("s1", "s2", "series3", "series4", "series5")
PAPER_CURVE = ((0.3, 0.0272), (0.6, 0.1207), (0.8, 0.2640), (0.9, 0.4056), (1.0, 1.0))
"""Share of active elements at each theta in the paper's table 3 (LLaMA-2-7B, QKVGUD, GSM8K)."""
_MOST_DOTS = 6000
_DECADES = 8
"""Scores further below the largest one are drawn at the edge: they would squeeze everything else."""
_CELL_HEIGHT = 17
_LEFT, _TOP, _BOTTOM = 74, 4, 34
_BACKGROUND = "svg { background: var(--paper); }"
_WIDTH = 890
_LINES = ("s1 dashed", "s2", "series3", "series4", "series5")


@dataclass(frozen=True)
class Region:
    """One region: its name in the partition's summary, its name for people, and its class in charts.css."""

    key: str
    title: str
    colour: str


REGIONS = (
    Region("system1_only", "S1 only", "s1"),
    Region("system2_only", "S2 only", "s2"),
    Region("shared", "shared", "shared"),
    Region("unused", "inactive", "inactive"),
)


def elements_section(facts: Facts) -> dict[str, Any] | None:
    """Sizes, drawings and sentences of the partition; None without one."""
    if facts.partition is None or facts.partition.get("whole"):
        return None
    with_paper = facts.config is not None and facts.config.adapter.layout == "QKVGUD"
    return {
        "named": "systems" in facts.partition,
        "sentence": region_sentence(facts.partition),
        "rows": region_rows(facts.partition),
        "scatter": scatter_chart(facts.partition),
        "scatter_count": scatter_count(facts.partition),
        "theta": theta_chart(facts.partition, with_paper=with_paper),
        "theta_sentence": "" if "systems" in facts.partition else theta_sentence(facts.partition),
        "region_curve": region_curve(facts.partition),
        "with_paper": with_paper,
        "maps": heat_maps(facts.partition),
        "figures": facts.partition,
    }


def regions_of(partition: Values) -> tuple[Region, ...]:
    """The regions of a partition: of named systems what only one selected, what several did, and what none did."""
    named = partition.get("systems")
    if named is None:
        return REGIONS
    own = [
        Region(f"{system}_only", f"{system} only", _NAMED_COLOURS[place % len(_NAMED_COLOURS)])
        for place, system in enumerate(named)
    ]
    return (*own, *REGIONS[2:])


def region_rows(partition: Values) -> list[dict[str, str]]:
    """Size of each region, and what share of all elements that is."""
    return [
        {
            "title": region.title,
            "colour": region.colour,
            "elements": number(partition.get(f"{region.key}_elements")),
            "share": percent(partition.get(f"{region.key}_fraction")),
        }
        for region in regions_of(partition)
    ]


def scatter_chart(partition: Values) -> Markup | None:
    """Score for System 2 against score for System 1, an even draw of elements, coloured by region."""
    scatter = partition.get("scatter") or {}
    if "systems" in partition:
        return None
    columns = [scatter.get(name) or [] for name in ("system1", "system2", "region")]
    drawn = list(zip(*columns, strict=False))
    drawn = drawn[:: max(1, math.ceil(len(drawn) / _MOST_DOTS))]
    largest = max((max(one, two) for one, two, _ in drawn), default=0.0)
    if largest <= 0:
        return None
    positive = min(value for one, two, _ in drawn for value in (one, two) if value > 0)
    top = 10.0 ** math.ceil(math.log10(largest))
    bottom = max(10.0 ** math.floor(math.log10(positive)), top / 10.0**_DECADES)
    label = "Scatter of each element's importance for System 2 against its importance for System 1, by region"
    span = (bottom, top)
    plot = Plot.of(label, span, span, size=(520, 500), margins=(14, 16, 46, 58), log=True)
    layers = [
        dots(plot.points((one, two) for one, two, where in drawn if where == region.key), region.colour)
        for region in reversed(REGIONS)
    ]
    names = [
        text(region.title, x, y, f"region {region.colour}", text_anchor=anchor)
        for region, (x, y, anchor) in zip(REGIONS, _corners(plot), strict=True)
    ]
    x_axis = plot.x_axis("importance for System 1", words=power_of_ten)
    y_axis = plot.y_axis("importance for System 2", words=power_of_ten)
    return plot.draw(y_axis, *layers, *names, x_axis)


def _corners(plot: Plot) -> list[tuple[float, float, str]]:
    """Where the regions' names stand, in the order of REGIONS: each in the corner its dots lie towards."""
    left, right, bottom, top = plot.x.start + 8, plot.x.end - 6, plot.y.start - 10, plot.y.end + 18
    return [(right, bottom, "end"), (left, top, "start"), (right, top, "end"), (left, bottom, "start")]


def scatter_count(partition: Values) -> int:
    """How many elements the scatter shows."""
    count = len((partition.get("scatter") or {}).get("region") or [])
    return math.ceil(count / max(1, math.ceil(count / _MOST_DOTS)))


def theta_chart(partition: Values, *, with_paper: bool) -> Markup | None:
    """Share of elements in each system's set, and the Jaccard index of the two sets, against theta."""
    curve = partition.get("theta_curve") or {}
    thetas = curve.get("theta") or []
    lines = [
        ("s2", curve.get("system2_active_fraction")),
        ("s1 dashed", curve.get("system1_active_fraction")),
        ("neutral dotted", curve.get("jaccard")),
    ]
    if not thetas or "systems" in partition:
        return None
    label = "Share of elements in each system's set, and their Jaccard index, against theta"
    plot = Plot.of(label, (0.0, 1.0), (0.0, 1.0), size=(430, 300))
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    parts = [plot.y_axis("share", shares, whole_percent)]
    parts += [
        polyline(plot.points(zip(thetas, values, strict=True)), f"curve {colour}") for colour, values in lines if values
    ]
    if with_paper:
        parts.append(group(_cross(*place) for place in plot.points(PAPER_CURVE)))
    if partition.get("theta"):
        heights = [(partition.get(f"system{n}_active_fraction"), f"s{n}") for n in (2, 1)]
        parts.append(_chosen(plot, partition["theta"], heights))
    return plot.draw(*parts, plot.x_axis("theta: share of the total importance kept", shares))


def region_curve(partition: Values) -> Markup | None:
    """How the elements that are in either set divide into the regions, against theta."""
    curve = partition.get("theta_curve") or {}
    if "systems" in partition:
        return None
    columns = [curve.get(f"{region.key}_fraction") or [] for region, _ in _REGION_LINES]
    rows = [(theta, parts) for theta, *parts in zip(curve.get("theta") or [], *columns, strict=False) if sum(parts) > 0]
    if not rows:
        return None
    label = "How the elements in either set divide into S1 only, S2 only and shared, against theta"
    plot = Plot.of(label, (0.0, 1.0), (0.0, 1.0), size=(430, 300))
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    curves = [
        polyline(
            plot.points((theta, parts[place] / sum(parts)) for theta, parts in rows), f"curve {region.colour} {style}"
        )
        for place, (region, style) in enumerate(_REGION_LINES)
    ]
    marks = [_chosen(plot, partition["theta"], [])] if partition.get("theta") else []
    axis = plot.x_axis("theta: share of the total importance kept", shares)
    return plot.draw(plot.y_axis("share of both sets together", shares, whole_percent), *curves, *marks, axis)


_REGION_LINES = tuple(zip(REGIONS[:3], ("dashed", "", "dotted"), strict=True))


def _chosen(plot: Plot, theta: float, dots_at: Sequence[tuple[Any, str]]) -> Markup:
    """The theta of this run, with dots at the heights that are given with their colour."""
    at = plot.x(theta)
    marks = [line((at, plot.y.start), (at, plot.y.end), "marker")]
    marks += [
        tag("circle", cx=at, cy=plot.y(height), r=4.5, class_=f"dot {colour}")
        for height, colour in dots_at
        if height is not None
    ]
    marks.append(text(f"this run: {theta:g}", at - 6, plot.y.end + 12, "note", text_anchor="end"))
    return group(marks)


def _cross(x: float, y: float) -> Markup:
    return group([line((x - 4, y - 4), (x + 4, y + 4), "cross"), line((x - 4, y + 4), (x + 4, y - 4), "cross")])


@dataclass(frozen=True)
class HeatMap:
    """One region's map: the darker a cell, the larger the region's share of that module's elements in that layer."""

    title: str
    colour: str
    drawing: Markup
    lowest: str
    highest: str


def heat_maps(partition: Values) -> list[HeatMap]:
    """A map for each region but the inactive one; empty where the partition was not counted by layer."""
    cells = [cell for cell in partition.get("regions") or [] if cell.get("total")]
    return [_heat_map(region, cells) for region in regions_of(partition)[:-1]] if cells else []


def _heat_map(region: Region, cells: Sequence[Values]) -> HeatMap:
    modules = _module_order(cells)
    layers = sorted({_layer(cell) for cell in cells})
    shares = {(_layer(cell), cell["module"]): cell[region.key] / cell["total"] for cell in cells}
    low, high = min(shares.values()), max(shares.values())
    width = min(30.0, (_WIDTH - _LEFT - 8) / len(layers))
    shade = Scale(0.0, high or 1.0, 0.04, 1.0)
    parts: list[Markup] = []
    for cell in cells:
        place = (_LEFT + layers.index(_layer(cell)) * width, _TOP + modules.index(cell["module"]) * float(_CELL_HEIGHT))
        parts.append(_cell(cell, region, place, width, shade))
    for row, module in enumerate(modules):
        parts.append(text(module, _LEFT - 7, _TOP + row * _CELL_HEIGHT + 12.5, "tick", text_anchor="end"))
    bottom = float(_TOP + len(modules) * _CELL_HEIGHT)
    parts.append(_layer_axis(layers, width, bottom))
    size = (math.ceil(_LEFT + len(layers) * width + 8), math.ceil(bottom + _BOTTOM))
    label = f"Share of {region.title} elements by layer and module, from {percent(low)} to {percent(high)}"
    return HeatMap(region.title, region.colour, picture(*size, label, *parts), percent(low), percent(high))


def _cell(cell: Values, region: Region, place: tuple[float, float], width: float, shade: Scale) -> Markup:
    count, total = cell[region.key], cell["total"]
    where = "outside the layers" if cell.get("layer") is None else f"layer {cell['layer']}"
    words = f"{where}, {cell['module']}: {percent(count / total)} {region.title} ({count:,} of {total:,})"
    return tag(
        "rect",
        tag("title", words),
        x=place[0],
        y=place[1],
        width=width - 1.0,
        height=_CELL_HEIGHT - 1,
        class_=f"cell {region.colour}",
        fill_opacity=f"{shade(count / total):.2f}",
    )


def _layer_axis(layers: Sequence[int], width: float, bottom: float) -> Markup:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if step * width >= 22 or step == 100)
    parts = [
        text("–" if layer < 0 else layer, _LEFT + (place + 0.5) * width, bottom + 13, "tick", text_anchor="middle")  # noqa: RUF001
        for place, layer in enumerate(layers)
        if layer % step == 0 or layer < 0
    ]
    parts.append(text("layer", _LEFT + len(layers) * width / 2, bottom + 29, "axis-title", text_anchor="middle"))
    return group(parts)


def _layer(cell: Values) -> int:
    return -1 if cell.get("layer") is None else int(cell["layer"])


def _module_order(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attention before the MLP, as in the name of the layout; others after them by name."""
    usual = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    present = {str(cell["module"]) for cell in cells}
    return [name for name in usual if name in present] + sorted(present - set(usual))


def theta_sentence(partition: Values) -> str:
    """What this run's theta leaves out, in words."""
    left = [percent(1 - partition[f"{system}_active_fraction"], 0) for system in ("system1", "system2")]
    return (
        f"The {100 * (1 - partition['theta']):.2g}% of the importance that theta {partition['theta']:g} leaves out is "
        f"spread over {left[0]} of the elements for System 1 and over {left[1]} for System 2."
    )


def region_sentence(partition: Values) -> str:
    """How large the sets are and how much of them is common, in words."""
    if "systems" in partition:
        return _named_sentence(partition)
    return (
        f"Of {count_of(int(partition['elements']), 'trainable element')}, System 1's set takes "
        f"{percent(partition.get('system1_active_fraction'))} and System 2's "
        f"{percent(partition.get('system2_active_fraction'))}; the two sets have a Jaccard index of "
        f"{number(partition.get('jaccard'))}. SFT may move {percent(partition.get('sft_active_fraction'))} of all "
        f"elements, RL {percent(partition.get('rl_active_fraction'))}; the rest stay bit for bit as they started."
    )


def _named_sentence(partition: Values) -> str:
    sets = ", ".join(f"{one} {percent(partition.get(f'{one}_active_fraction'))}" for one in partition["systems"])
    moved = ", ".join(f"{one} {percent(partition.get(f'{one}_trained_fraction'))}" for one in partition["systems"])
    alike = ", ".join(f"{pair} {number(value)}" for pair, value in partition["jaccards"].items())
    return (
        f"Of {count_of(int(partition['elements']), 'trainable element')} the systems' sets take: {sets}. Their phases "
        f"may move: {moved}; the rest stay bit for bit as they started. Jaccard indices of each two sets: {alike}."
    )


def sweep_plot(rows: Sequence[SweepRow], path: Path) -> None:
    """Write the same metrics as a picture (SVG, one file without references): what each system trains, and Jaccard."""
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


def card_plots(rl: Path, partition: Path) -> dict[str, tuple[str, str]]:
    """By name, caption and SVG: what RL's reward did, and which elements each system trains; what there is of them.

    Equal artifacts give equal bytes.
    """
    facts = read_facts(ReportSources(rl=rl, partition=partition))
    summary = facts.partition or {}
    reward = next((curve for curve in rl_curves(facts.rl_steps or ()) if curve.title == "Reward"), None)
    drawn = {
        "reward": ("Mean reward over the steps of RL", reward.drawing if reward is not None else None),
        "importance": (
            "Importance of LoRA elements for each system, coloured by who trains them",
            scatter_chart(summary),
        ),
        "theta": ("Share of elements in each system's set against theta", theta_chart(summary, with_paper=False)),
    }
    return {name: (caption, _alone(svg)) for name, (caption, svg) in drawn.items() if svg is not None}


def _alone(drawing: Markup) -> str:
    """A drawing with its style sheet inside."""
    opening, rest = drawing.split(">", 1)
    style = tag("style", style_sheet("charts.css"), Markup(_BACKGROUND))  # noqa: S704
    return f"{opening}>{style}{rest}\n"
