"""Public benchmarks in the report: every model beside the others, with intervals and what an answer took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorapar.config import SYSTEMS
from lorapar.report.formats import NOTHING, decimal_seconds, interval, is_number, model_name, p_value, percent
from lorapar.report.outcome import MODELS, Change, changes
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
        )
        for name in names
        if name not in SYSTEMS
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
    moved = f" (after RL against base: {change['verdict']}, {p_value(change['p_value'])})" if change else ""
    return f"{NAMES.get(name, name)}: {', '.join(scores) or 'not scored'}{moved}"


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
