"""How training went: curves over its steps (SFT loss, RL reward and KL), and the time and memory of every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lorapar.config.training import DEFAULT_PHASES
from lorapar.report.formats import duration, is_number, number, percent, phases_text, size, system_name
from lorapar.report.sources import Facts, Values
from lorapar.report.svg import Plot, Point, group, padded, plain, polyline

_MOST_POINTS = 400
_PART = "reward_"
"""What the history's keys of single rewards begin with."""
_SERIES = ("series1", "series2", "series3", "series4", "series5", "series6", "series7", "series8")


@dataclass(frozen=True)
class Curve:
    """One drawing with its title and, where it has several lines, their names and classes in charts.css."""

    title: str
    drawing: Markup
    legend: tuple[tuple[str, str], ...] = ()


def training_section(facts: Facts) -> dict[str, Any] | None:
    """Curves, phases and some rollouts; None before a step was taken."""
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
            "system": system_name(one["system"]),
            "method": one["method"].upper(),
            "own": ", ".join(f"{key} {value}" for key, value in (one.get("settings") or {}).items()),
            "steps": number(one["steps"]),
            "active": percent(one["active_fraction"]),
            "moved": number(one["moved_elements"]),
            "ends": _ends(one, "loss" if one["method"] == "sft" else "reward"),
        }
        for one in found
    ]


def _ends(summary: Mapping[str, Any], key: str) -> str:
    first, last = (summary.get(f"{key}_{end}") for end in ("first", "last"))
    return f"{key} {number(first)} to {number(last)}"


def _no_steps(facts: Facts, method: str) -> str:
    """Why there is no history of a method."""
    phases, name = facts.config.phases if facts.config else DEFAULT_PHASES, method.upper()
    if facts.rl is None or facts.config is None:
        return f"{name} did not finish"
    if method not in facts.config.methods:
        return f"phases is [{phases_text(phases)}], so there was no {name}"
    return f"phases is [{phases_text(phases)}]; the steps of SFT are in sft_history.jsonl beside those of RL"


def _some_rollouts(kept: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[Mapping[str, Any]]]]:
    """Completions of the first, the middle and the last step that has some, by step."""
    steps = sorted({line["step"] for line in kept})
    shown = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [(step, [line for line in kept if line["step"] == step]) for step in shown]


def sft_curves(steps: Sequence[Values], loss_average: str = "token") -> list[Curve]:
    """The loss of supervised fine-tuning (a mean over tokens or rows), and how large its gradients were."""
    return _present(
        [
            _single("Loss", "loss", steps, "s1", f"nats, mean over {loss_average}s"),
            _single("Gradient norm of the active elements", "grad_norm", steps, "neutral", "before clipping"),
        ]
    )


def rl_curves(steps: Sequence[Values]) -> list[Curve]:
    """Reward, its parts, KL and completion length of reinforcement learning, those that were logged."""
    return _present(
        [
            _single("Reward", "reward", steps, "s2", "mean weighted reward"),
            _reward_parts(steps),
            _single("KL to the reference model", "kl", steps, "neutral", "nats per token"),
            _single("Length of completions", "completion_length", steps, "neutral", "tokens"),
        ]
    )


def _present(curves: Sequence[Curve | None]) -> list[Curve]:
    return [curve for curve in curves if curve is not None]


def _single(title: str, key: str, steps: Sequence[Values], colour: str, unit: str) -> Curve | None:
    """One metric over the steps: each step thin, their moving mean thick."""
    points = series(steps, key)
    if not points:
        return None
    window = max(1, len(points) // 12)
    smooth = moving_mean(points, window)
    parts = [polyline(_at_most(points), f"curve raw {colour}")] if window > 1 else []
    legend = ((colour + " raw", "each step"), (colour, f"mean of {window} steps")) if window > 1 else ()
    plot = _plot(f"{title} over steps", points)
    lines = plot_lines(plot, [(f"curve {colour}", smooth)])
    thin = [group(plot_lines(plot, [(f"curve raw {colour}", points)]))] if parts else []
    return Curve(title, plot.draw(plot.y_axis(unit), *thin, *lines, _step_axis(plot)), legend)


def _reward_parts(steps: Sequence[Values]) -> Curve | None:
    """Every part of the reward in one drawing, smoothed so that five lines can be told apart."""
    keys = dict.fromkeys(key for step in steps for key in step if key.startswith(_PART))
    lines = [(key.removeprefix(_PART), series(steps, key)) for key in keys]
    lines = [(name, moving_mean(points, max(1, len(points) // 12))) for name, points in lines if points][: len(_SERIES)]
    if not lines:
        return None
    classes = [f"curve {style}" for style in _SERIES]
    everything = [point for _, points in lines for point in points]
    plot = _plot("Parts of the reward over steps", everything)
    drawn = plot_lines(plot, list(zip(classes, (points for _, points in lines), strict=False)))
    drawing = plot.draw(plot.y_axis("mean of each part, unweighted"), *drawn, _step_axis(plot))
    return Curve("Parts of the reward", drawing, tuple(zip(_SERIES, (name for name, _ in lines), strict=False)))


def _plot(label: str, points: Sequence[Point]) -> Plot:
    steps = [step for step, _ in points]
    y = padded((value for _, value in points), include=(0.0,) if min(value for _, value in points) >= 0 else ())
    return Plot.of(label, (min(steps), max(steps)), y)


def _step_axis(plot: Plot) -> Markup:
    """Ticks at whole steps only."""
    return plot.x_axis("step", [tick for tick in plot.x.ticks() if tick == round(tick)])


def plot_lines(plot: Plot, lines: Sequence[tuple[str, Sequence[Point]]]) -> list[Markup]:
    """Each line, thinned to what a screen can show."""
    return [polyline(plot.points(_at_most(points)), class_) for class_, points in lines]


def series(steps: Sequence[Values], key: str) -> list[Point]:
    """(step, value) where the value was logged and is finite."""
    return [
        (float(step.get("step", place)), float(step[key]))
        for place, step in enumerate(steps, 1)
        if is_number(step.get(key))
    ]


def moving_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Mean of `window` values around each step; fewer at the ends."""
    means = []
    for place in range(len(points)):
        inside = points[max(0, place - (window - 1) // 2) : place + window // 2 + 1]
        means.append((points[place][0], math.fsum(value for _, value in inside) / len(inside)))
    return means


def ends(steps: Sequence[Values], key: str) -> tuple[str, str] | None:
    """Mean over the first and over the last fifth of the steps, in words; the training stages’ own summaries do so."""
    values = [value for _, value in series(steps, key)]
    if not values:
        return None
    few = max(1, round(len(values) / 5))
    return plain(math.fsum(values[:few]) / few), plain(math.fsum(values[-few:]) / few)


def _at_most(points: Sequence[Point]) -> Sequence[Point]:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points if step <= 1 else [*points[::step], points[-1]]


def cost_section(facts: Facts) -> dict[str, Any] | None:
    """Rows of the table and their sums; None before the run has ended."""
    if not facts.timings:
        return None
    longest = max(_number(one, "seconds") for one in facts.timings) or 1.0
    largest = max(_number(one, "peak_memory_bytes") for one in facts.timings) or 1.0
    reused = [one for one in facts.timings if one.get("reused")]
    return {
        "rows": [_row(one, longest, largest) for one in facts.timings],
        "total": duration(_total(facts.timings)),
        "this_run": duration(_total([one for one in facts.timings if not one.get("reused")])),
        "peak": size(largest),
        "reused": f"{len(reused)} of them {'was' if len(reused) == 1 else 'were'} reused" if reused else None,
    }


def _row(one: Values, longest: float, largest: float) -> dict[str, Any]:
    seconds, memory = _number(one, "seconds"), _number(one, "peak_memory_bytes")
    return {
        "node": one.get("node") or one.get("stage"),
        "reused": bool(one.get("reused")),
        "time": duration(one.get("seconds")),
        "time_share": f"{100 * seconds / longest:.1f}",
        "memory": size(one.get("peak_memory_bytes")),
        "memory_share": f"{100 * memory / largest:.1f}",
    }


def _total(timings: Sequence[Values]) -> float:
    return sum(_number(one, "seconds") for one in timings)


def _number(one: Values, key: str) -> float:
    return float(one.get(key) or 0.0)
