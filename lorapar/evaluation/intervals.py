"""How sure a held-out score is: an interval for one share of right answers, and for the change between two models.

Both models answer the same rows, so a change is judged on the rows they disagree about: rows won (wrong before, right
after) against rows lost. Sources: Wilson, JASA 22 (1927) 209; McNemar, Psychometrika 12 (1947) 153, exact form;
Bonett and Price, J. Educ. Behav. Stat. 37 (2012) 479, the closed-form interval that Fagerland, Lydersen and Laake
recommend for paired proportions (Stat. Med. 33 (2014) 2850). Spearman, Am. J. Psychol. 15 (1904) 72, for ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class PairedChange:
    """The share right after minus the share right before, on the same rows."""

    rows: int
    wins: int
    """Rows wrong before and right after."""
    losses: int
    """Rows right before and wrong after."""
    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided exact McNemar: how likely at least so uneven a split of wins and losses is if nothing changed."""


def wilson_interval(right: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, as (low, high) within [0, 1]; raises ValueError without rows."""
    _check(rows, confidence)
    z = _quantile(confidence)
    share = right / rows
    centre = share + z * z / (2 * rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    low, high = (centre - half) / scale, (centre + half) / scale
    return (0.0 if right == 0 else low), (1.0 if right == rows else high)


def paired_change(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> PairedChange:
    """What changed from one model to another, row by row; raises ValueError where the rows do not pair up."""
    _check(len(before), confidence)
    wins = sum(b and not a for a, b in zip(before, after, strict=True))
    losses = sum(a and not b for a, b in zip(before, after, strict=True))
    low, high = _bonett_price(wins, losses, len(before), confidence)
    return PairedChange(
        rows=len(before),
        wins=wins,
        losses=losses,
        difference=(wins - losses) / len(before),
        low=low,
        high=high,
        p_value=mcnemar_exact(wins, losses),
    )


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided binomial p-value of a wins-to-losses split under a fair coin; 1 where nothing differs."""
    rows = wins + losses
    term = tail = 1
    for k in range(min(wins, losses)):
        term = term * (rows - k) // (k + 1)
        tail += term
    # Integers stay exact for any number of rows; 2 ** rows would not fit a float beyond 1,023 of them.
    return min(1.0, (2 * tail) / (1 << rows))


def _bonett_price(wins: int, losses: int, rows: int, confidence: float) -> tuple[float, float]:
    """Wald's interval after one row has been added to each of the two cells of disagreement."""
    won, lost = (wins + 1) / (rows + 2), (losses + 1) / (rows + 2)
    difference = won - lost
    half = _quantile(confidence) * math.sqrt((won + lost - difference * difference) / (rows + 2))
    return max(-1.0, difference - half), min(1.0, difference + half)


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _check(rows: int, confidence: float) -> None:
    if rows < 1:
        raise ValueError("an interval needs at least one row")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, -1 to 1; equal values share the mean of their ranks, and 0 is told where one side is constant."""
    ranks = np.stack([_ranks(values) for values in (first, second)])
    return float(np.corrcoef(ranks)[0, 1]) if ranks.std(axis=1).all() else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])
