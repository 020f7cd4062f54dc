"""Statistics of a study: an interval over seeds, a paired test over rows, and a correction for many comparisons.

Sources: Student, Biometrika 6 (1908) 1; Fisher, The Design of Experiments (1935), chapter 3, for the test by changing
signs, which is McNemar's where every row was answered once; Holm, Scand. J. Stat. 6 (1979) 65.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from lorapar.evaluation.intervals import mcnemar_exact


def seed_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Student's t interval of the mean over seeds; None for one seed."""
    if len(values) < 2:
        return None
    half = t_quantile(0.5 + confidence / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t for a probability above 0.5, by bisection."""
    low, high = 0.0, 1.0
    while t_below(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, degrees) < probability else (low, middle)
    return high


def t_below(value: float, degrees: int) -> float:
    """The probability that Student's t is below a value of at least 0 (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(degrees))
    term = total = math.cos(angle) if degrees % 2 else 1.0
    for step in range(2 + degrees % 2, degrees, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    if degrees == 1:
        within = 2 * angle / math.pi
    elif degrees % 2:
        within = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        within = math.sin(angle) * total
    return 0.5 + within / 2


def sign_change_p(differences: Sequence[int]) -> float:
    """Two-sided exact p-value of a sum of integers, one for each row, if every sign were equally likely.

    A row that was answered with several seeds is one integer, the sum over its seeds, because its answers are not
    independent. Where every integer is -1, 0 or 1, this is the exact McNemar test.
    """
    sizes = Counter(abs(one) for one in differences if one)
    if set(sizes) <= {1}:
        return mcnemar_exact(sum(one > 0 for one in differences), sum(one < 0 for one in differences))
    spread = np.ones(1)
    for size, count in sizes.items():
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = _fair_coin(count)
        spread = np.convolve(spread, steps)
    middle, found = len(spread) // 2, abs(sum(differences))
    if found == 0:
        return 1.0
    return min(1.0, float(spread[: middle - found + 1].sum() + spread[middle + found :].sum()))


def _fair_coin(count: int) -> np.ndarray:
    """The probabilities of 0 to `count` heads."""
    every = math.lgamma(count + 1)
    logs = [every - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2) for k in range(count + 1)]
    return np.exp(logs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the corrected p-values, in the given order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
