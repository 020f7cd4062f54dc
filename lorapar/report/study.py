"""The page of a study: its tables, and the paper's figure drawn again with our points, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lorapar.report.page import environment
from lorapar.report.svg import Plot, group, line, padded, plain, polyline, style_sheet, tag, text, whole_percent

_COLOURS = ("series1", "series2", "series3", "series4", "series5", "series6", "series7", "series8")
_NAME_WIDTH = 7.2
"""Width of a letter of a name beside a drawing, about, in pixels."""


@dataclass(frozen=True)
class Point:
    """A mean with its interval; the paper's figure where it has one of the same."""

    name: str
    x: float
    """Where it is on a numeric axis; 0 where there is none."""
    mean: float
    interval: tuple[float, float] | None
    paper: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    points: tuple[Point, ...]


def line_chart(label: str, axis: str, series: Sequence[Series]) -> Markup:
    """Shares over a numeric setting, a line each series; the paper's as open circles on a thin line."""
    points = [point for one in series for point in one.points]
    high = max([point.mean for point in points] + [point.paper or 0 for point in points] + _ends(points))
    plot = Plot.of(label, padded([point.x for point in points]), (0.0, min(1.0, high * 1.1 or 1.0)), size=(440, 290))
    drawn = []
    for one, colour in zip(series, _cycled(len(series)), strict=True):
        places = plot.points((point.x, point.mean) for point in one.points)
        drawn += [polyline(places, f"curve {colour}"), *(_whisker_upright(plot, point) for point in one.points)]
        drawn += [_dot(x, y, f"dot {colour}") for x, y in places]
        paper = plot.points((point.x, point.paper) for point in one.points if point.paper is not None)
        if paper:
            drawn += [polyline(paper, f"curve raw {colour}"), *(_dot(x, y, f"bar-open {colour}") for x, y in paper)]
    ticks = sorted({point.x for point in points})
    return plot.draw(plot.y_axis("right answers", None, whole_percent), *drawn, plot.x_axis(axis, ticks, plain))


def dot_chart(label: str, series: Sequence[Series]) -> Markup:
    """A row for each name, a dot with its interval for each series; the paper's as open circles."""
    names = list(dict.fromkeys(point.name for one in series for point in one.points))
    points = [point for one in series for point in one.points]
    high = max([point.mean for point in points] + [point.paper or 0 for point in points] + _ends(points))
    left = int(min(320, 16 + _NAME_WIDTH * max(map(len, names))))
    step = 14 * len(series) + 12
    size = (left + 420, 60 + step * len(names))
    plot = Plot.of(label, (0.0, min(1.0, high * 1.1 or 1.0)), (0.0, 1.0), size=size, margins=(8, 16, 44, left))
    drawn = []
    for place, name in enumerate(names):
        top = 8 + step * place
        drawn.append(text(name, left - 8, top + step / 2 + 4, "category", text_anchor="end"))
        for row, (one, colour) in enumerate(zip(series, _cycled(len(series)), strict=True)):
            at = top + 13 + 14 * row
            for point in one.points:
                if point.name == name:
                    drawn.append(_dot_row(plot, at, point, colour))
        drawn.append(line((left, top + step), (plot.x.end, top + step), "grid"))
    return plot.draw(*drawn, plot.x_axis("right answers", None, whole_percent))


def key_of(series: Sequence[Series]) -> list[tuple[str, str]]:
    """Colour and name of each series."""
    return [(colour, one.name) for one, colour in zip(series, _cycled(len(series)), strict=True)]


def render_study(**parts: Any) -> str:
    """The whole page; everything in `parts` is text to it but for the drawings made here."""
    page = environment().get_template("study.html")
    return page.render(style=style_sheet("charts.css") + style_sheet("page.css"), **parts)


def _cycled(count: int) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]


def _ends(points: Sequence[Point]) -> list[float]:
    return [min(1.0, point.interval[1]) for point in points if point.interval is not None]


def _dot(x: float, y: float, class_: str) -> Markup:
    return tag("circle", cx=x, cy=y, r=4, class_=class_)


def _whisker_upright(plot: Plot, point: Point) -> Markup:
    if point.interval is None:
        return Markup("")
    at, low, high = plot.x(point.x), plot.y(point.interval[0]), plot.y(point.interval[1])
    return group(
        [line((at, low), (at, high), "whisker"), *(line((at - 4, y), (at + 4, y), "whisker") for y in (low, high))]
    )


def _dot_row(plot: Plot, at: float, point: Point, colour: str) -> Markup:
    parts = []
    if point.interval is not None:
        parts.append(line((plot.x(point.interval[0]), at), (plot.x(point.interval[1]), at), "whisker"))
    parts.append(_dot(plot.x(point.mean), at, f"dot {colour}"))
    if point.paper is not None:
        parts.append(_dot(plot.x(point.paper), at, f"bar-open {colour}"))
    return group(parts)
