"""Which of a run's adapters to publish: the last one, unless an earlier one is better on the same development rows.

An earlier one is better if it is right on more rows and the exact McNemar test of the two (`intervals.py`) gives
p < (1 - confidence) / comparisons: Bonferroni's correction, since each further candidate is a further chance to look
better by luck (Dunn, J. Am. Stat. Assoc. 56 (1961) 52). Of several that are better the one that is right most often is
picked, and of equals the latest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorapar.evaluation.intervals import PairedChange, mcnemar_exact, paired_change

Verdicts = Mapping[str, bool]
"""By row, whether the answer was right; rows without a reference are left out."""


@dataclass(frozen=True)
class Tried:
    """One adapter on the development rows."""

    step: int
    right: int
    change: PairedChange | None
    """From the last adapter to this one; None of the last one itself."""
    better: bool


@dataclass(frozen=True)
class Pick:
    """The picked adapter, and the candidates it was compared with."""

    step: int
    last: int
    """The last step of the run."""
    rows: int
    p_below: float
    """An earlier adapter is better where its p-value is below this."""
    tried: tuple[Tried, ...]
    """Every adapter, the last one last."""

    def document(self) -> dict[str, Any]:
        """For the lineage and the report."""
        return {
            "step": self.step,
            "steps": self.last,
            "development_rows": self.rows,
            "p_below": self.p_below,
            "candidates": [_candidate(one) for one in self.tried],
        }

    @property
    def sentence(self) -> str:
        """One line for people."""
        last = self.tried[-1]
        if self.step == self.last:
            why = "no earlier one is better by the test" if self.tried[:-1] else "there is no earlier one"
            return f"the last adapter, after step {self.last}, is published: {why} ({last.right} of {self.rows} rows)"
        own = next(one for one in self.tried if one.step == self.step)
        p = own.change.p_value if own.change else 1.0
        return (
            f"the adapter after step {self.step} of {self.last} is published: right on {own.right} of {self.rows} "
            f"development rows, the last one on {last.right} (p = {p:.2g}, below {self.p_below:.2g})"
        )


def pick_adapter(verdicts: Mapping[int, Verdicts], confidence: float) -> Pick:
    """Pick among adapters by step, of which the greatest is the last; all have answered the same rows.

    Raises ValueError where there is no row.
    """
    last = max(verdicts)
    rows = sorted(verdicts[last])
    comparisons = len(verdicts) - 1
    p_below = _p_below(comparisons, confidence)
    before = [verdicts[last][row] for row in rows]
    tried = []
    for step in sorted(verdicts):
        after = [verdicts[step][row] for row in rows]
        change = None if step == last else paired_change(before, after, 1 - p_below)
        better = change is not None and change.difference > 0 and change.p_value < p_below
        tried.append(Tried(step, sum(after), change, better))
    best = max((one for one in tried if one.better), key=lambda one: (one.right, one.step), default=tried[-1])
    return Pick(best.step, last, len(rows), p_below, tuple(tried))


def rows_needed(comparisons: int, confidence: float) -> int:
    """Rows that an earlier adapter must win, losing none, to be better: with fewer rows none can be."""
    p_below = _p_below(comparisons, confidence)
    return next(won for won in range(1, 1100) if mcnemar_exact(won, 0) < p_below)


def _p_below(comparisons: int, confidence: float) -> float:
    # Rounded, because 1 - 0.95 is a little more than 0.05.
    return round((1 - confidence) / max(1, comparisons), 12)


def _candidate(one: Tried) -> dict[str, Any]:
    candidate: dict[str, Any] = {"step": one.step, "right": one.right}
    if one.change is None:
        return candidate
    change = one.change
    return {
        **candidate,
        "wins": change.wins,
        "losses": change.losses,
        "difference": change.difference,
        "interval": [change.low, change.high],
        "p_value": change.p_value,
        "better": one.better,
    }
