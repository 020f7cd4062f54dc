"""report.html: one page without script or network, put together from Jinja2 templates with autoescaping on.

Everything from data (questions, answers, names, settings) is text to the templates; only the drawings and style sheets
made in this package are markup.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, ModuleLoader, StrictUndefined

from lorapar import __version__
from lorapar.records import json_text
from lorapar.report import formats
from lorapar.report.answers import answers_section
from lorapar.report.elements import elements_section
from lorapar.report.metrics import metrics_of
from lorapar.report.outcome import outcome_section
from lorapar.report.scores import benchmarks, verdict_lines, verdict_metrics
from lorapar.report.settings import asked_section, digest_rows, settings_section
from lorapar.report.sources import Facts, ReportSources, read_facts
from lorapar.report.svg import FOLDER, style_sheet
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
    written = environment()
    written.loader = FileSystemLoader(FOLDER)
    written.compile_templates(folder, extensions=["html"], zip=None, ignore_errors=False)


def environment() -> Environment:
    """Templates of this folder, with the filters that they use."""
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
