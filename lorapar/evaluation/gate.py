"""The gate: is a candidate better than the incumbent on the same rows, and does it lose nowhere more than it may?

Better means: on the rows of the measures that count, taken together, it is right on more rows than the incumbent, by
at least the minimum gain, and an exact McNemar test calls that more than noise; and no single measure loses more than
its guard allows. Everything else is "not better", which is a result. Sources of the test and of the interval:
`lorapar.evaluation.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from lorapar.config import GateConfig
from lorapar.errors import BadInputError, nearest
from lorapar.evaluation.accuracy import Outcomes
from lorapar.evaluation.intervals import mcnemar_exact, paired_change

CANDIDATE, INCUMBENT, BASE = "after_rl", "incumbent", "base"
"""Names of the models in an evaluation."""


class Comparison(BaseModel):
    """Candidate against incumbent on the rows of one measure, or of several together."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    measure: str
    rows: int
    candidate: float
    """Share of the rows the candidate got right."""
    incumbent: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    """Two-sided exact McNemar."""
    wins: int
    """Rows only the candidate got right."""
    losses: int
    """Rows only the incumbent got right."""


class Guard(BaseModel):
    """Whether one measure lost more than it may."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    measure: str
    max_loss: float
    judged: float
    """The change that was judged: as measured, or the low end of its interval."""
    held: bool


class Judged(BaseModel):
    """What the metrics say."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    better: bool
    against: str
    """`incumbent` or `base`."""
    reasons: tuple[str, ...]
    gain: Comparison
    comparisons: tuple[Comparison, ...]
    """Every measure by itself."""
    guards: tuple[Guard, ...]


def judge(outcomes: Outcomes, settings: GateConfig, against: str) -> Judged:
    """Judge the candidate against a model of the evaluation, `incumbent` or `base`.

    Raises BadInputError where the settings name a measure that was not evaluated, or the two models did not answer the
    same rows.
    """
    _known("gate.measures", settings.measures, outcomes)
    _known("gate.max_loss_of", settings.max_loss_of, outcomes)
    pairs = {measure: _paired(measure, models, against) for measure, models in outcomes.items()}
    comparisons = tuple(_compare(measure, pair, settings.confidence) for measure, pair in pairs.items())
    together = [row for measure in settings.measures for row in pairs[measure]]
    gain = _compare(" + ".join(settings.measures), together, settings.confidence)
    guards = tuple(_guard(comparison, settings) for comparison in comparisons)
    gained, reason = _gained(gain, settings, against)
    return Judged(
        better=gained and all(guard.held for guard in guards),
        against=against,
        reasons=(reason, *_guard_reasons(guards, comparisons, settings), *_too_few(gain.rows, settings)),
        gain=gain,
        comparisons=comparisons,
        guards=guards,
    )


Pairs = Sequence[tuple[bool, bool]]
"""Of each row: whether the incumbent got it right, and the candidate."""


def _known(setting: str, measures: Sequence[str] | Mapping[str, float], outcomes: Outcomes) -> None:
    for measure in measures:
        if measure not in outcomes:
            raise BadInputError(
                f"{setting}: '{measure}' was not evaluated{nearest(measure, list(outcomes))}; the evaluation holds: "
                f"{', '.join(outcomes) or 'no row with a reference to compare with'}"
            )


def _paired(measure: str, models: Mapping[str, Mapping[str, bool]], against: str) -> Pairs:
    old, new = models.get(against, {}), models.get(CANDIDATE, {})
    if not new or old.keys() != new.keys():
        raise BadInputError(
            f"{measure}: {against} answered {len(old)} rows and the candidate {len(new)}, not the same ones, so they "
            "cannot be compared; run evaluate again"
        )
    return [(old[row], new[row]) for row in sorted(new)]


def _compare(measure: str, pairs: Pairs, confidence: float) -> Comparison:
    old, new = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    change = paired_change(old, new, confidence)
    return Comparison(
        measure=measure,
        rows=change.rows,
        candidate=sum(new) / len(new),
        incumbent=sum(old) / len(old),
        difference=change.difference,
        interval=(change.low, change.high),
        p_value=change.p_value,
        wins=change.wins,
        losses=change.losses,
    )


def _guard(comparison: Comparison, settings: GateConfig) -> Guard:
    allowed = settings.max_loss_of.get(comparison.measure, settings.max_loss)
    judged = comparison.difference if settings.loss_judged_by == "estimate" else comparison.interval[0]
    # A hair of tolerance: 0.95 - 0.9 is a little less than 0.05.
    return Guard(measure=comparison.measure, max_loss=allowed, judged=judged, held=judged >= -allowed - 1e-9)


def _gained(gain: Comparison, settings: GateConfig, against: str) -> tuple[bool, str]:
    """Whether the gain is enough and no noise, and the reason in words."""
    # Rounded, because 1 - 0.95 is a little more than 0.05.
    certain = gain.p_value < round(1 - settings.confidence, 9)
    enough = gain.difference >= settings.minimum_gain - 1e-9
    who = "the incumbent" if against == INCUMBENT else "the base model"
    what = (
        f"{gain.measure}: right on {_percent(gain.candidate)} of {gain.rows:,} rows against {_percent(gain.incumbent)} "
        f"for {who}, {_points(gain.difference)} points ({gain.wins:,} won, {gain.losses:,} lost, "
        f"{100 * settings.confidence:g}% interval {_points(gain.interval[0])} to {_points(gain.interval[1])}, "
        f"p = {gain.p_value:.2g})"
    )
    if gain.difference <= 0:
        return False, f"{what}; that is no gain"
    if not certain:
        return False, f"{what}; that is within noise"
    if not enough:
        return False, f"{what}; that is less than the minimum gain of {_points(settings.minimum_gain)} points"
    return True, f"{what}; that is a gain"


def _too_few(rows: int, settings: GateConfig) -> list[str]:
    """That not even a candidate which wins every row would be better for sure, where the rows are so few."""
    best = mcnemar_exact(rows, 0)
    if best < round(1 - settings.confidence, 9):
        return []
    only = "1 row" if rows == 1 else f"{rows:,} rows"
    return [
        f"only {only} could be judged: even with every one won p would be {best:.2g}, so nothing would be found "
        f"better at gate.confidence {settings.confidence:g}; raise data.heldout (of the task mix: data.task_mix)"
    ]


def _guard_reasons(guards: Sequence[Guard], comparisons: Sequence[Comparison], settings: GateConfig) -> list[str]:
    broken = []
    for guard, comparison in zip(guards, comparisons, strict=True):
        if not guard.held:
            how = ", and its interval does not exclude more" if settings.loss_judged_by == "interval" else ""
            broken.append(
                f"{guard.measure} changed by {_points(comparison.difference)} points "
                f"({_points(comparison.interval[0])} to {_points(comparison.interval[1])}){how}; it must not lose more "
                f"than {100 * guard.max_loss:g}"
            )
    if broken:
        return broken
    names = ", ".join(guard.measure for guard in guards)
    return [f"no measure fell by more than allowed ({names})"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
