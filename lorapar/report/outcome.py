"""What came out: held-out scores of base, after SFT and after RL, and what of a change is more than noise, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lorapar.report.formats import count_of, interval, is_number, model_name, p_value, percent, points, systems_in
from lorapar.report.sources import Facts, Figures

MODELS = ("base", "after_sft", "after_rl")
Verdict = Literal["up", "down", "within noise", "unchanged"]
Bounds = tuple[float, float]


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
