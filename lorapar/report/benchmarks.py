"""Benchmarks in the report: every model beside the others, with intervals and what an answer took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorapar.report.formats import (
    MODELS,
    NOTHING,
    decimal_seconds,
    interval,
    is_number,
    model_name,
    p_value,
    percent,
    systems_in,
)
from lorapar.report.outcome import Change, changes
from lorapar.report.sources import Facts, Figures

NAMES = {"gsm8k": "GSM8K", "mmlu": "MMLU", "humaneval": "HumanEval"}
ASKED_MODELS = (*MODELS, "incumbent")


@dataclass(frozen=True)
class BenchmarkRow:
    """One model's line in the table of one benchmark, as text."""

    model: str
    rows: str
    strict: str
    strict_interval: str
    lenient: str
    lenient_interval: str
    seconds: str
    tokens: str


@dataclass(frozen=True)
class Benchmark:
    """One benchmark with every model's line and the changes from model to model."""

    title: str
    rows: Sequence[BenchmarkRow]
    changes: Sequence[Change]
    notes: Sequence[str] = ()
    """What lm-eval says of the task: its version, and each model's metrics with their standard errors."""


def benchmarks(facts: Facts) -> list[Benchmark]:
    """Every benchmark that was asked, in the order of the settings."""
    evaluation = facts.evaluation or {}
    by_model = {model: (evaluation.get(model) or {}).get("benchmarks", {}) for model in ASKED_MODELS}
    names = dict.fromkeys(name for figures in by_model.values() for name in figures)
    moved = changes(facts)
    return [
        Benchmark(
            title=NAMES.get(name, name),
            rows=[_row(model, figures[name]) for model, figures in by_model.items() if name in figures],
            changes=[change for change in moved if change.system == name],
            notes=_notes(name, by_model),
        )
        for name in names
        if name not in systems_in(evaluation)
    ]


def benchmark_lines(metrics: Figures) -> list[str]:
    """One line a benchmark, from metrics.json: `GSM8K: base 13.3%, after RL 41.9% (after RL against base: up, ...)`."""
    by_model = {model: (metrics.get(model) or {}).get("benchmarks", {}) for model in ASKED_MODELS}
    names = dict.fromkeys(name for figures in by_model.values() for name in figures)
    return [_line(name, by_model, (metrics.get("changes") or {}).get(f"{name}_base_to_after_rl")) for name in names]


def _line(name: str, by_model: Mapping[str, Figures], change: Figures | None) -> str:
    scores = [
        f"{model_name(model)} {percent(figures[name]['accuracy'])}"
        for model, figures in by_model.items()
        if is_number(figures.get(name, {}).get("accuracy"))
    ]
    if not scores:  # a task whose metrics are figures of all its rows together
        scores = [
            f"{model_name(model)} {figures[name]['metric']} {figures[name]['score']:.4g}"
            for model, figures in by_model.items()
            if is_number(figures.get(name, {}).get("score"))
        ]
    moved = f" (after RL against base: {change['verdict']}, {p_value(change['p_value'])})" if change else ""
    return f"{NAMES.get(name, name)}: {', '.join(scores) or 'not scored'}{moved}"


def _notes(name: str, by_model: Mapping[str, Figures]) -> list[str]:
    found = {model: figures[name] for model, figures in by_model.items() if name in figures}
    version = next((figures["version"] for figures in found.values() if figures.get("version")), None)
    notes = [f"{NAMES.get(name, name)}: version {version} of the task"] if version else []
    for model, figures in found.items():
        scores = figures.get("scores") or {}
        shown = [_score(metric, scores) for metric in scores if "_stderr," not in metric]
        if shown:
            notes.append(f"{NAMES.get(name, name)}, {model_name(model)}: {'; '.join(shown)}")
    return [*notes, *_task_notes(name, found), *_group_notes(name, found)]


def _task_notes(name: str, found: Mapping[str, Figures]) -> list[str]:
    """A line for each task of a group: its rows, its version, and every model's figure with its standard error."""
    first: Figures = next(iter(found.values()), {})
    notes = []
    for task, figures in (first.get("tasks") or {}).items():
        metric = figures.get("metric")
        each = [
            f"{model_name(model)} {_score(metric, own['scores'])}"
            for model, whole in found.items()
            if metric in ((own := (whole.get("tasks") or {}).get(task, {})).get("scores") or {})
        ]
        version = f", version {figures['version']}" if figures.get("version") else ""
        notes.append(f"{name}, {task} ({figures.get('rows', 0):,} rows{version}): {'; '.join(each) or 'not scored'}")
    return notes


def _group_notes(name: str, found: Mapping[str, Figures]) -> list[str]:
    """A line for each group within a group."""
    first: Figures = next(iter(found.values()), {})
    notes = []
    for group, scores in (first.get("groups") or {}).items():
        metric = next((one for one in scores if "_stderr," not in one), "")
        each = [
            f"{model_name(model)} {_score(metric, own)}"
            for model, whole in found.items()
            if metric in (own := (whole.get("groups") or {}).get(group, {}))
        ]
        notes.append(f"{name}, group {group}: {'; '.join(each)}")
    return notes


def _score(metric: str, scores: Figures) -> str:
    """`acc 0.25 (standard error 0.12)`; lm-eval writes N/A where there is one row, or no formula."""
    name, _, filtered = metric.partition(",")
    value, error = scores[metric], scores.get(f"{name}_stderr,{filtered}")
    shown = f"{value:.4g}" if is_number(value) else str(value)
    said = "" if error is None else f" (standard error {f'{error:.2g}' if is_number(error) else error})"
    return f"{name if filtered in ('', 'none') else metric} {shown}{said}"


def _row(model: str, figures: Figures) -> BenchmarkRow:
    tokens = figures.get("tokens_per_answer")
    return BenchmarkRow(
        model=model_name(model),
        rows=f"{figures.get('rows', 0):,}",
        strict=percent(figures.get("accuracy")),
        strict_interval=interval(figures.get("interval")),
        lenient=percent(figures.get("lenient_accuracy")),
        lenient_interval=interval(figures.get("lenient_interval")),
        seconds=decimal_seconds(figures.get("seconds_per_answer")),
        tokens=f"{tokens:.0f}" if is_number(tokens) else NOTHING,
    )
