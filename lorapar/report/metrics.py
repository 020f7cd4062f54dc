"""What a run measured: held-out scores, benchmarks and the gate's verdict as data and lines of text, and metrics.json.

Each change of a score comes with its paired test. The keys of metrics.json are stable, for programs; a metric that is
not there is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from lorapar.config import SYSTEMS
from lorapar.records import Omission
from lorapar.report.formats import (
    MODELS,
    NOTHING,
    count_of,
    decimal_seconds,
    interval,
    is_number,
    model_name,
    p_value,
    percent,
    points,
    systems_in,
)
from lorapar.report.sources import Facts, Values, overlap_of

Verdict = Literal["up", "down", "within noise", "unchanged"]
Bounds = tuple[float, float]
NAMES = {"gsm8k": "GSM8K", "mmlu": "MMLU", "humaneval": "HumanEval"}
ASKED_MODELS = (*MODELS, "incumbent")


@dataclass(frozen=True)
class Score:
    """One model's held-out metrics on one system; accuracies are shares of 1, None where no row has a reference."""

    system: str
    model: str
    rows: int
    strict: float | None
    strict_interval: Bounds | None
    lenient: float | None
    lenient_interval: Bounds | None
    loss: float | None


@dataclass(frozen=True)
class Change:
    """What changed on one system or benchmark from one model to another, judged on the same rows."""

    system: str
    """The system, or the name of the benchmark."""
    before: str
    after: str
    difference: float
    bounds: Bounds
    p_value: float
    wins: int
    losses: int
    confidence: float

    @property
    def verdict(self) -> Verdict:
        """`up` or `down` where the paired test calls it more than noise at the report's level."""
        if self.wins == self.losses == 0:
            return "unchanged"
        # Rounded, because 1 - 0.95 is a little more than 0.05.
        if self.p_value >= round(1.0 - self.confidence, 9):
            return "within noise"
        return "up" if self.difference > 0 else "down"

    @property
    def sentence(self) -> str:
        """The change and how sure it is, such as `rose by 31.2 points (24 rows won, 4 lost, p < 0.001)`."""
        counts = f"{count_of(self.wins, 'row')} won, {self.losses:,} lost, {p_value(self.p_value)}"
        moved = points(abs(self.difference)).removeprefix("+")
        if self.verdict == "unchanged":
            return "gave the same verdict on every row"
        if self.verdict == "within noise":
            return f"changed by {points(self.difference)} points, which is within noise ({counts})"
        return f"{'rose' if self.verdict == 'up' else 'fell'} by {moved} points ({counts})"


def scores(facts: Facts) -> list[Score]:
    """Every system's score under every model that was evaluated, in that order."""
    evaluation = facts.evaluation or {}
    return [
        _score(system, model, evaluation[model])
        for system in systems_in(evaluation)
        for model in MODELS
        if model in evaluation and evaluation[model].get(f"{system}_rows")
    ]


def changes(facts: Facts) -> list[Change]:
    """Every paired change that was evaluated: base to SFT, SFT to RL and base to RL, by system, then by benchmark."""
    found = (facts.evaluation or {}).get("changes", {})
    confidence = facts.config.evaluate.confidence if facts.config else 0.95
    pairs = [*pairwise(MODELS), (MODELS[0], MODELS[-1])]
    return [
        _change(system, before, after, found[system][f"{before}_to_{after}"], confidence)
        for system in dict.fromkeys([*systems_in(facts.evaluation or {}), *found])
        for before, after in pairs
        if f"{before}_to_{after}" in found.get(system, {})
    ]


def find_change(found: Sequence[Change], system: str, before: str, after: str) -> Change | None:
    """The change of one system between two models; None where it was not evaluated."""
    wanted = (system, before, after)
    return next((change for change in found if (change.system, change.before, change.after) == wanted), None)


def _score(system: str, model: str, metrics: Values) -> Score:
    return Score(
        system=system,
        model=model,
        rows=int(metrics.get(f"{system}_rows") or 0),
        strict=metrics.get(f"{system}_accuracy"),
        strict_interval=_bounds(metrics.get(f"{system}_interval")),
        lenient=metrics.get(f"{system}_lenient_accuracy"),
        lenient_interval=_bounds(metrics.get(f"{system}_lenient_interval")),
        loss=metrics.get(f"{system}_loss"),
    )


def _change(system: str, before: str, after: str, metrics: Values, confidence: float) -> Change:
    low, high = metrics["interval"]
    return Change(
        system=system,
        before=before,
        after=after,
        difference=float(metrics["difference"]),
        bounds=(float(low), float(high)),
        p_value=float(metrics["p_value"]),
        wins=int(metrics["wins"]),
        losses=int(metrics["losses"]),
        confidence=confidence,
    )


def _bounds(value: Sequence[float] | None) -> Bounds | None:
    return (float(value[0]), float(value[1])) if value else None


def verdict_metrics(facts: Facts) -> dict[str, Any] | None:
    """The key `verdict` of metrics.json; None where nothing was judged."""
    if facts.verdict is None or facts.version is None:
        return None
    return {
        "better": facts.verdict["better"],
        "reasons": list(facts.verdict["reasons"]),
        "name": facts.version["name"],
        "version": facts.version["version"],
        "incumbent": (facts.verdict["incumbent"] or {}).get("version"),
        "gain": facts.verdict["figures"]["gain"],
        "guards": facts.verdict["figures"]["guards"],
        "promoted": bool(facts.promotion and facts.promotion["promoted"]),
        "promotion": facts.promotion["reason"] if facts.promotion else None,
    }


def verdict_lines(verdict: Mapping[str, Any] | None) -> list[str]:
    """The verdict in words, the conclusion first."""
    if verdict is None:
        return []
    against = f"version {verdict['incumbent']}" if verdict["incumbent"] is not None else "the base model"
    text = "better than" if verdict["better"] else "not better than"
    lines = [f"Gate: {verdict['name']}@{verdict['version']} is {text} {against}", *verdict["reasons"]]
    if verdict["promotion"]:
        lines.append(verdict["promotion"])
    elif verdict["better"]:
        lines.append("production was not moved: gate.promote is off, or the run has not come that far")
    return [lines[0], *(f"  {line}" for line in lines[1:])]


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
    names = dict.fromkeys(name for metrics in by_model.values() for name in metrics)
    moved = changes(facts)
    return [
        Benchmark(
            title=NAMES.get(name, name),
            rows=[_row(model, metrics[name]) for model, metrics in by_model.items() if name in metrics],
            changes=[change for change in moved if change.system == name],
            notes=_notes(name, by_model),
        )
        for name in names
        if name not in systems_in(evaluation)
    ]


def benchmark_lines(document: Values) -> list[str]:
    """One line a benchmark, from metrics.json: `GSM8K: base 13.3%, after RL 41.9% (after RL against base: up, ...)`."""
    by_model = {model: (document.get(model) or {}).get("benchmarks", {}) for model in ASKED_MODELS}
    names = dict.fromkeys(name for metrics in by_model.values() for name in metrics)
    return [_line(name, by_model, (document.get("changes") or {}).get(f"{name}_base_to_after_rl")) for name in names]


def _line(name: str, by_model: Mapping[str, Values], change: Values | None) -> str:
    scores = [
        f"{model_name(model)} {percent(metrics[name]['accuracy'])}"
        for model, metrics in by_model.items()
        if is_number(metrics.get(name, {}).get("accuracy"))
    ]
    if not scores:  # a task with metrics of all its rows together
        scores = [
            f"{model_name(model)} {metrics[name]['metric']} {metrics[name]['score']:.4g}"
            for model, metrics in by_model.items()
            if is_number(metrics.get(name, {}).get("score"))
        ]
    moved = f" (after RL against base: {change['verdict']}, {p_value(change['p_value'])})" if change else ""
    return f"{NAMES.get(name, name)}: {', '.join(scores) or 'not scored'}{moved}"


def _notes(name: str, by_model: Mapping[str, Values]) -> list[str]:
    found = {model: metrics[name] for model, metrics in by_model.items() if name in metrics}
    version = next((metrics["version"] for metrics in found.values() if metrics.get("version")), None)
    notes = [f"{NAMES.get(name, name)}: version {version} of the task"] if version else []
    for model, metrics in found.items():
        scores = metrics.get("scores") or {}
        shown = [_task_score(metric, scores) for metric in scores if "_stderr," not in metric]
        if shown:
            notes.append(f"{NAMES.get(name, name)}, {model_name(model)}: {'; '.join(shown)}")
    return [*notes, *_task_notes(name, found), *_group_notes(name, found)]


def _task_notes(name: str, found: Mapping[str, Values]) -> list[str]:
    """A line for each task of a group: its rows, its version, and every model's figure with its standard error."""
    first: Values = next(iter(found.values()), {})
    notes = []
    for task, metrics in (first.get("tasks") or {}).items():
        metric = metrics.get("metric")
        each = [
            f"{model_name(model)} {_task_score(metric, own['scores'])}"
            for model, whole in found.items()
            if metric in ((own := (whole.get("tasks") or {}).get(task, {})).get("scores") or {})
        ]
        version = f", version {metrics['version']}" if metrics.get("version") else ""
        notes.append(f"{name}, {task} ({metrics.get('rows', 0):,} rows{version}): {'; '.join(each) or 'not scored'}")
    return notes


def _group_notes(name: str, found: Mapping[str, Values]) -> list[str]:
    """A line for each group within a group."""
    first: Values = next(iter(found.values()), {})
    notes = []
    for group, scores in (first.get("groups") or {}).items():
        metric = next((one for one in scores if "_stderr," not in one), "")
        each = [
            f"{model_name(model)} {_task_score(metric, own)}"
            for model, whole in found.items()
            if metric in (own := (whole.get("groups") or {}).get(group, {}))
        ]
        notes.append(f"{name}, group {group}: {'; '.join(each)}")
    return notes


def _task_score(metric: str, scores: Values) -> str:
    """`acc 0.25 (standard error 0.12)`; lm-eval writes N/A where there is one row, or no formula."""
    name, _, filtered = metric.partition(",")
    value, error = scores[metric], scores.get(f"{name}_stderr,{filtered}")
    shown = f"{value:.4g}" if is_number(value) else str(value)
    text = "" if error is None else f" (standard error {f'{error:.2g}' if is_number(error) else error})"
    return f"{name if filtered in ('', 'none') else metric} {shown}{text}"


def _row(model: str, metrics: Values) -> BenchmarkRow:
    tokens = metrics.get("tokens_per_answer")
    return BenchmarkRow(
        model=model_name(model),
        rows=f"{metrics.get('rows', 0):,}",
        strict=percent(metrics.get("accuracy")),
        strict_interval=interval(metrics.get("interval")),
        lenient=percent(metrics.get("lenient_accuracy")),
        lenient_interval=interval(metrics.get("lenient_interval")),
        seconds=decimal_seconds(metrics.get("seconds_per_answer")),
        tokens=f"{tokens:.0f}" if is_number(tokens) else NOTHING,
    )


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
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": facts.config.name if facts.config else None,
        "seed": facts.config.seed if facts.config else None,
        "model": facts.config.model.name if facts.config else None,
        **{model: evaluation.get(model) for model in (*MODELS, "incumbent")},
        "changes": {f"{c.system}_{c.before}_to_{c.after}": _written(c) for c in changes(facts)} or None,
        "verdict": verdict_metrics(facts),
        "data": _data(facts),
        "partition": _partition(facts),
        "votes": _votes(facts),
        "omissions": [
            {"stage": stage, **one.model_dump(), "line": one.line, "much": one.is_much}
            for stage, one in facts.omissions
        ],
        "timings": list(facts.timings) if facts.timings else None,
    }
    finite: dict[str, Any] = without_nan(document)
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


def _written(change: Any) -> dict[str, Any]:
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
