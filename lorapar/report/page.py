"""The pages, report.html and that of a study: one file without script or network, put together from Jinja2 templates.

Autoescaping is on. Everything from data (questions, answers, names, settings) is text to the templates; only the
drawings and style sheets made in this package are markup.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, ModuleLoader, StrictUndefined
from markupsafe import Markup

from lorapar import __version__
from lorapar.records import json_text
from lorapar.report import formats
from lorapar.report.elements import elements_section
from lorapar.report.metrics import benchmarks, metrics_of, verdict_lines, verdict_metrics
from lorapar.report.outcome import answers_section, outcome_section
from lorapar.report.settings import asked_section, digest_rows, settings_section
from lorapar.report.sources import Facts, ReportSources, read_facts
from lorapar.report.svg import FOLDER, Plot, group, line, padded, plain, polyline, style_sheet, tag, text, whole_percent
from lorapar.report.training import cost_section, training_section
from lorapar.report.usage import usage
from lorapar.report.votes import votes_section
from lorapar.store import write_atomically

COMPILED = FOLDER / "compiled"
"""The templates as modules, in an image only: a checkout would show what they once were."""


class Section(NamedTuple):
    """A section of the page: `section_ANCHOR.html` shows, as the variable ANCHOR, what `content` makes of the facts.

    None stands for a run that did not get that far.
    """

    anchor: str
    title: str
    content: Callable[[Facts], Any]


SECTIONS = (
    Section("asked", "What was asked", asked_section),
    Section("outcome", "What came out", outcome_section),
    Section("answers", "Answers before and after", answers_section),
    Section("votes", "How the teachers voted", votes_section),
    Section("elements", "Which elements were trained", elements_section),
    Section("training", "How training went", training_section),
    Section("cost", "Time and memory", cost_section),
    Section("use", "Use the adapter", usage),
    Section("settings", "Every setting and digest", settings_section),
)
"""In the order of the page."""


def write_report(sources: ReportSources, folder: Path) -> None:
    """Write report.html and metrics.json from whatever is there; sections without data say so.

    Raises BadInputError (file and line) where an artifact is there but broken.
    """
    facts = read_facts(sources)
    write_atomically(folder / "metrics.json", json_text(metrics_of(facts)))
    write_atomically(folder / "report.html", render_page(facts))


def render_page(facts: Facts) -> str:
    """The whole page."""
    page = environment().get_template("page.html")
    return page.render(
        name=facts.config.name if facts.config else "unnamed run",
        style=style_sheet("charts.css") + style_sheet("page.css"),
        sections=SECTIONS,
        version=(facts.plan or {}).get("version") or __version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        reached=_reached(facts),
        verdict=verdict_lines(verdict_metrics(facts)),
        benchmarks=benchmarks(facts),
        digests=digest_rows(facts),
        **{section.anchor: section.content(facts) for section in SECTIONS},
    )


def compile_templates(folder: Path = COMPILED) -> None:
    """Write the templates as Python modules, as an image's build does: a page then takes 0.1 s less."""
    written = environment().overlay(loader=FileSystemLoader(FOLDER))
    written.compile_templates(folder, extensions=["html"], zip=None, ignore_errors=False)


@functools.cache
def environment() -> Environment:
    """Templates of this folder, with the filters that they use; one for all pages, so that each is compiled once."""
    made = Environment(
        loader=ModuleLoader(COMPILED) if COMPILED.is_dir() else FileSystemLoader(FOLDER),
        autoescape=True,
        optimized=False,  # it would take longer than what it saves of a page that is rendered once
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "points", "p_value", "number", "duration", "size", "interval", "shorten"):
        made.filters[name] = getattr(formats, name)
    made.filters["system"] = formats.system_name
    made.filters["model"] = formats.model_name
    return made


def _reached(facts: Facts) -> list[tuple[str, bool]]:
    """What a run goes through, and whether this one did."""
    return [
        ("plan", facts.plan is not None),
        ("examples", bool(facts.examples)),
        ("votes", facts.votes is not None),
        ("labels", facts.voting is not None),
        ("partition", facts.partition is not None),
        ("SFT", facts.sft_steps is not None or facts.sft is not None),
        ("RL", facts.rl_steps is not None or facts.rl is not None),
        ("adapter", facts.adapter is not None),
        ("evaluation", facts.evaluation is not None),
        ("verdict", facts.verdict is not None),
    ]


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
