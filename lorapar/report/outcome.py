"""What came out: held-out scores of base, after SFT and after RL, as words and bars; and the gate's verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from markupsafe import Markup

from lorapar.config.training import DEFAULT_PHASES, methods_of
from lorapar.report.formats import (
    MODELS,
    count_of,
    interval,
    is_number,
    model_name,
    p_value,
    percent,
    phases_said,
    points,
    system_name,
    systems_in,
)
from lorapar.report.sources import Facts, Figures
from lorapar.report.svg import Plot, group, line, tag, text, whole_percent

Verdict = Literal["up", "down", "within noise", "unchanged"]
Bounds = tuple[float, float]
_BAR = 34
_GAP = 6
_SHADES = {"base": "shade1", "after_sft": "shade2", "after_rl": "shade3"}


@dataclass(frozen=True)
class Score:
    """One model's held-out figures on one system; accuracies are shares of 1, None where no row has a reference."""

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
        **_told(facts, moved),
        "level": f"{level:g}",
    }


def _told(facts: Facts, moved: Sequence[Change]) -> dict[str, Any]:
    """What training won and cost, in sentences; in another order than SFT, then RL, what the names of models mean."""
    phases = facts.config.phases if facts.config else DEFAULT_PHASES
    if phases == DEFAULT_PHASES:
        return {"summary": summary_sentence(moved), "trade": trade_sentences(moved)}
    before = "" if methods_of(phases[0]) == ("sft",) else "“After SFT” is the adapter before training, and "
    note = f"This run trained in the order [{phases_said(phases)}]. {before}“after RL” is the adapter as published."
    return {"summary": None, "trade": [note]}


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


def _score(system: str, model: str, figures: Figures) -> Score:
    return Score(
        system=system,
        model=model,
        rows=int(figures.get(f"{system}_rows") or 0),
        strict=figures.get(f"{system}_accuracy"),
        strict_interval=_bounds(figures.get(f"{system}_interval")),
        lenient=figures.get(f"{system}_lenient_accuracy"),
        lenient_interval=_bounds(figures.get(f"{system}_lenient_interval")),
        loss=figures.get(f"{system}_loss"),
    )


def _change(system: str, before: str, after: str, figures: Figures, confidence: float) -> Change:
    low, high = figures["interval"]
    return Change(
        system=system,
        before=before,
        after=after,
        difference=float(figures["difference"]),
        bounds=(float(low), float(high)),
        p_value=float(figures["p_value"]),
        wins=int(figures["wins"]),
        losses=int(figures["losses"]),
        confidence=confidence,
    )


def _bounds(value: Sequence[float] | None) -> Bounds | None:
    return (float(value[0]), float(value[1])) if value else None


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


def verdict_figures(facts: Facts) -> dict[str, Any] | None:
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
    said = "better than" if verdict["better"] else "not better than"
    lines = [f"Gate: {verdict['name']}@{verdict['version']} is {said} {against}", *verdict["reasons"]]
    if verdict["promotion"]:
        lines.append(verdict["promotion"])
    elif verdict["better"]:
        lines.append("production was not moved: gate.promote is off, or the run has not come that far")
    return [lines[0], *(f"  {line}" for line in lines[1:])]
