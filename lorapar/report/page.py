"""report.html: one page without script or network, put together from Jinja2 templates with autoescaping on.

Everything from data (questions, answers, names, settings) is text to the templates; only the drawings and style sheets
made in this package are markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, ModuleLoader, StrictUndefined

from lorapar import __version__
from lorapar.config.training import DEFAULT_PHASES, Phases, methods_of, phase_said
from lorapar.records import json_text
from lorapar.report import formats
from lorapar.report.asked import asked_section
from lorapar.report.ballots import (
    agreement_matrix,
    calibration_rows,
    confusion_matrix,
    contested_rows,
    failed_notice,
    same_model_notice,
    shown_rows,
    systems_voted,
    teacher_rows,
    vote_facts,
)
from lorapar.report.benchmarks import benchmarks
from lorapar.report.cost import cost_section
from lorapar.report.curves import ends, rl_curves, sft_curves
from lorapar.report.metrics import metrics_of
from lorapar.report.outcome import Change, changes, score_rows, scores, summary_sentence, trade_sentences
from lorapar.report.outcome_chart import outcome_chart
from lorapar.report.regions import (
    heat_maps,
    region_curve,
    region_rows,
    region_sentence,
    scatter_chart,
    scatter_count,
    theta_chart,
    theta_sentence,
)
from lorapar.report.samples import RULE, choose_samples
from lorapar.report.settings import changed_settings, digest_rows, documents, setting_groups, with_near_addresses
from lorapar.report.sources import Facts, ReportSources, read_facts
from lorapar.report.style import FOLDER, style_sheet
from lorapar.report.usage import usage
from lorapar.report.verdict import verdict_figures, verdict_lines
from lorapar.store import write_atomically

Section = Mapping[str, Any]

COMPILED = FOLDER / "compiled"
"""The templates as modules, in an image only: a checkout would show what they once were."""

SECTIONS = (
    ("asked", "What was asked"),
    ("outcome", "What came out"),
    ("answers", "Answers before and after"),
    ("votes", "How the teachers voted"),
    ("elements", "Which elements were trained"),
    ("training", "How training went"),
    ("cost", "Time and memory"),
    ("use", "Use the adapter"),
    ("settings", "Every setting and digest"),
)
"""Anchors and titles, in the order of the page."""


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
        asked=asked_section(facts),
        outcome=_outcome(facts),
        verdict=verdict_lines(verdict_figures(facts)),
        answers=_answers(facts),
        votes=_votes(facts),
        elements=_elements(facts),
        training=_training(facts),
        cost=cost_section(facts),
        use=usage(facts),
        settings=_settings(facts),
        digests=digest_rows(facts),
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


def _outcome(facts: Facts) -> Section | None:
    found, moved = scores(facts), changes(facts)
    if not found:
        return None
    systems = [
        {
            "key": system,
            "title": formats.system_name(system),
            "chart": outcome_chart(found, system),
            "rows": score_rows(found, system),
            "scores": [score for score in found if score.system == system],
            "changes": [change for change in moved if change.system == system],
        }
        for system in formats.systems_in(facts.evaluation or {})
    ]
    level = 100 * (facts.config.evaluate.confidence if facts.config else 0.95)
    return {
        "systems": systems,
        **_told(facts, moved),
        "benchmarks": benchmarks(facts),
        "level": f"{level:g}",
    }


def _told(facts: Facts, moved: Sequence[Change]) -> Section:
    """What training won and cost, in sentences; in another order than SFT, then RL, what the names of models mean."""
    phases = facts.config.phases if facts.config else DEFAULT_PHASES
    if phases == DEFAULT_PHASES:
        return {"summary": summary_sentence(moved), "trade": trade_sentences(moved)}
    before = "" if methods_of(phases[0]) == ("sft",) else "“After SFT” is the adapter before training, and "
    note = f"This run trained in the order [{_said(phases)}]. {before}“after RL” is the adapter as published."
    return {"summary": None, "trade": [note]}


def _answers(facts: Facts) -> Section | None:
    if not facts.answers:
        return None
    count = facts.config.report.answers if facts.config else 10
    samples, sizes = choose_samples(facts.answers, facts.examples, count)
    return {"samples": samples, "sizes": sizes, "rule": RULE}


def _votes(facts: Facts) -> Section | None:
    if facts.voting is None:
        return None
    limit = facts.config.report.votes if facts.config else 20
    gold = facts.voting.get("gold") or {}
    systems = systems_voted(facts.voting)
    return {
        "facts": vote_facts(facts.voting),
        "same_model": same_model_notice(facts),
        "failed": failed_notice(facts.voting),
        "calibration": calibration_rows(facts.voting),
        "changed": (facts.voting.get("without_calibration") or {}).get("changed_rows"),
        "teachers": teacher_rows(facts),
        "agreement": agreement_matrix(facts.voting),
        "confusion": confusion_matrix(gold.get("confusion")),
        "shown": [(formats.system_name(system), shown_rows(facts, system, limit)) for system in systems],
        "contested": contested_rows(facts, limit),
    }


def _elements(facts: Facts) -> Section | None:
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


def _training(facts: Facts) -> Section | None:
    if facts.sft_steps is None and facts.rl_steps is None:
        return None
    return {
        "phases": phase_rows(facts),
        "sft": None
        if facts.sft_steps is None
        else sft_curves(facts.sft_steps, (facts.sft or {}).get("loss_average", "token")),
        "sft_ends": ends(facts.sft_steps or (), "loss"),
        "sft_steps": len(facts.sft_steps or ()),
        "sft_summary": facts.sft or {},
        "rl": None if facts.rl_steps is None else rl_curves(facts.rl_steps),
        "rl_ends": ends(facts.rl_steps or (), "reward"),
        "rl_steps": len(facts.rl_steps or ()),
        "rl_summary": facts.rl or {},
        "picked": (facts.lineage or {}).get("picked"),
        "rollouts": _some_rollouts(facts.rollouts or ()),
        "config": facts.config,
        "absent": {method: _no_steps(facts, method) for method in ("sft", "rl")},
    }


def phase_rows(facts: Facts) -> list[dict[str, str]]:
    """One line a named phase, of both nodes: whose elements, how, steps, and what came of it."""
    found = [one for node in (facts.sft, facts.rl) for one in (node or {}).get("phases") or []]
    return [
        {
            "system": formats.system_name(one["system"]),
            "method": one["method"].upper(),
            "own": ", ".join(f"{key} {value}" for key, value in (one.get("settings") or {}).items()),
            "steps": formats.number(one["steps"]),
            "active": formats.percent(one["active_fraction"]),
            "moved": formats.number(one["moved_elements"]),
            "ends": _ends(one, "loss" if one["method"] == "sft" else "reward"),
        }
        for one in found
    ]


def _ends(summary: Mapping[str, Any], key: str) -> str:
    first, last = (summary.get(f"{key}_{end}") for end in ("first", "last"))
    return f"{key} {formats.number(first)} to {formats.number(last)}"


def _said(phases: Phases) -> str:
    return ", ".join(map(phase_said, phases))


def _no_steps(facts: Facts, method: str) -> str:
    """Why there is no history of a method."""
    phases, name = facts.config.phases if facts.config else DEFAULT_PHASES, method.upper()
    if facts.rl is None or facts.config is None:
        return f"{name} did not finish"
    if method not in facts.config.methods:
        return f"phases is [{_said(phases)}], so there was no {name}"
    return f"phases is [{_said(phases)}]; the steps of SFT are in sft_history.jsonl beside those of RL"


def _some_rollouts(kept: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[Mapping[str, Any]]]]:
    """Completions of the first, the middle and the last step that has some, by step."""
    steps = sorted({line["step"] for line in kept})
    shown = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [(step, [line for line in kept if line["step"] == step]) for step in shown]


def _settings(facts: Facts) -> Section | None:
    if facts.config is None:
        return None
    groups = setting_groups(with_near_addresses(facts.config, facts.run))
    return {"groups": groups, "changed": changed_settings(groups), "documents": documents(facts)}
