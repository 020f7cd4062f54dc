"""The bars of the outcome: one panel a system, base, after SFT and after RL, strict and lenient, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lorapar.report.formats import model_name, percent, system_name
from lorapar.report.outcome import Bounds, Score
from lorapar.report.svg import Plot, group, line, tag, text, whole_percent

_BAR = 34
_GAP = 6
_SHADES = {"base": "shade1", "after_sft": "shade2", "after_rl": "shade3"}


def outcome_chart(scores: Sequence[Score], system: str) -> Markup | None:
    """One system's panel; None where nothing was compared with a reference."""
    own = [score for score in scores if score.system == system and score.strict is not None]
    if not own:
        return None
    figures = ", ".join(f"{model_name(score.model)} {percent(score.strict)}" for score in own)
    label = f"Share of right held-out answers of {system_name(system)}: {figures}"
    plot = Plot.of(label, (0.0, float(len(own))), (0.0, 1.0), size=(390, 280), margins=(28, 8, 30, 48))
    bars = [_pair(plot, place + 0.5, score) for place, score in enumerate(own)]
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    names = [
        text(model_name(score.model), plot.x(place + 0.5), plot.y.start + 19, "category", text_anchor="middle")
        for place, score in enumerate(own)
    ]
    base_line = line((plot.x.start, plot.y.start), (plot.x.end, plot.y.start), "axis")
    return plot.draw(plot.y_axis("right answers", shares, whole_percent), *bars, base_line, *names)


def _pair(plot: Plot, place: float, score: Score) -> Markup:
    """The strict bar, filled, and the lenient one, outlined, beside it."""
    centre = plot.x(place)
    shade = f"{_colour(score.system)} {_SHADES.get(score.model, 'shade3')}"
    parts = [_bar(plot, centre - _GAP / 2 - _BAR, f"bar {shade}", score.strict, score.strict_interval)]
    if score.lenient is not None:
        bar = f"bar-open {_colour(score.system)}"
        parts.append(_bar(plot, centre + _GAP / 2, bar, score.lenient, score.lenient_interval))
    return group(parts)


def _bar(plot: Plot, left: float, class_: str, share: float | None, bounds: Bounds | None) -> Markup:
    value = share or 0.0
    top, middle = plot.y(value), left + _BAR / 2
    rectangle = tag("rect", x=left, y=top, width=_BAR, height=max(plot.y.start - top, 0.0), class_=class_)
    label_at = plot.y(bounds[1] if bounds else value) - 6
    label = text(percent(value, 0), middle, label_at, "bar-value", text_anchor="middle")
    return group([rectangle, *_whisker(plot, middle, bounds), label])


def _whisker(plot: Plot, at: float, bounds: Bounds | None) -> list[Markup]:
    if bounds is None:
        return []
    low, high = plot.y(bounds[0]), plot.y(bounds[1])
    stem = line((at, low), (at, high), "whisker")
    return [stem, *(line((at - 5, end), (at + 5, end), "whisker") for end in (low, high))]


def _colour(system: str) -> str:
    return {"system1": "s1", "system2": "s2"}.get(system, "neutral")
