"""What came out, for the report: each system's scores before and after training, as sentences and as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from lorapar.config.training import DEFAULT_PHASES, methods_of
from lorapar.report.formats import (
    interval,
    is_number,
    model_name,
    percent,
    phases_text,
    points,
    system_name,
    systems_in,
)
from lorapar.report.scores import Bounds, Change, Score, changes, find_change, scores
from lorapar.report.sources import Facts
from lorapar.report.svg import Plot, group, line, tag, text, whole_percent

_BAR = 34
_GAP = 6
_SHADES = {"base": "shade1", "after_sft": "shade2", "after_rl": "shade3"}


def outcome_section(facts: Facts) -> dict[str, Any] | None:
    """Scores, changes and charts by system, and both in sentences; None where nothing was evaluated."""
    found, moved = scores(facts), changes(facts)
    if not found:
        return None
    systems = [
        {
            "key": system,
            "title": system_name(system),
            "chart": outcome_chart(found, system),
            "rows": score_rows(found, system),
            "scores": [score for score in found if score.system == system],
            "changes": [change for change in moved if change.system == system],
        }
        for system in systems_in(facts.evaluation or {})
    ]
    level = 100 * (facts.config.evaluate.confidence if facts.config else 0.95)
    return {
        "systems": systems,
        **_texts(facts, moved),
        "level": f"{level:g}",
    }


def _texts(facts: Facts, moved: Sequence[Change]) -> dict[str, Any]:
    """What training won and cost, in sentences; in another order than SFT, then RL, what the names of models mean."""
    phases = facts.config.phases if facts.config else DEFAULT_PHASES
    if phases == DEFAULT_PHASES:
        return {"summary": summary_sentence(moved), "trade": trade_sentences(moved)}
    before = "" if methods_of(phases[0]) == ("sft",) else "“After SFT” is the adapter before training, and "
    note = f"This run trained in the order [{phases_text(phases)}]. {before}“after RL” is the adapter as published."
    return {"summary": None, "trade": [note]}


def summary_sentence(moved: Sequence[Change]) -> str | None:
    """The run in one sentence: what System 2 won during RL and what that cost System 1."""
    won, lost = (find_change(moved, system, "after_sft", "after_rl") for system in ("system2", "system1"))
    if won is None or lost is None:
        return None
    return f"During RL, System 2 {_briefly(won)}; System 1 {_briefly(lost)}."


def _briefly(change: Change) -> str:
    if change.verdict in ("up", "down"):
        return f"went {change.verdict} by {points(abs(change.difference)).removeprefix('+')} points"
    if change.verdict == "unchanged":
        return "changed on no row"
    return f"changed by {points(change.difference)} points, which is within noise"


def trade_sentences(moved: Sequence[Change]) -> list[str]:
    """What System 2 won during RL, and what System 1 lost meanwhile; nothing where RL was not evaluated."""
    won, lost = (find_change(moved, system, "after_sft", "after_rl") for system in ("system2", "system1"))
    sentences = []
    if won is not None:
        sentences.append(f"During RL, System 2 {won.sentence}.")
    if lost is not None:
        sentences.append(f"Over the same steps System 1 {lost.sentence}." + _still_open(lost))
    if won is not None and lost is not None and lost.verdict == "down":
        sentences.append(
            f"So RL cost System 1 {points(-lost.difference).removeprefix('+')} points"
            + (
                " for what System 2 won."
                if won.verdict == "up"
                else " and System 2 has nothing certain to show for it."
            )
        )
    return sentences


def _still_open(change: Change) -> str:
    """A small sample that shows no loss has not shown that there is none."""
    if change.verdict not in ("within noise", "unchanged") or change.bounds[0] >= 0:
        return ""
    return (
        f" The {100 * change.confidence:.0f}% interval of that change runs from {points(change.bounds[0])} to "
        f"{points(change.bounds[1])} points, so a real loss inside it cannot be ruled out."
    )


def score_rows(found: Sequence[Score], system: str) -> list[dict[str, str]]:
    """One system's figures, written out for a table."""
    return [
        {
            "model": model_name(score.model),
            "rows": f"{score.rows:,}",
            "strict": percent(score.strict),
            "strict_interval": interval(score.strict_interval),
            "lenient": percent(score.lenient),
            "lenient_interval": interval(score.lenient_interval),
            "loss": f"{score.loss:.3f}" if is_number(score.loss) else "–",  # noqa: RUF001
        }
        for score in found
        if score.system == system
    ]


def outcome_chart(scores: Sequence[Score], system: str) -> Markup | None:
    """One system's panel; None where nothing was compared with a reference."""
    own = [score for score in scores if score.system == system and score.strict is not None]
    if not own:
        return None
    shown = ", ".join(f"{model_name(score.model)} {percent(score.strict)}" for score in own)
    label = f"Share of right held-out answers of {system_name(system)}: {shown}"
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
