"""Exact thresholds over millions of scores without sorting them.

The bits of a non-negative float32, read as an integer, order like the float. So a histogram over the upper 16 bits
finds the bin in which the running sum crosses its target, and a second one over that bin's lower 16 bits, each of whose
bins is one exact value, finds the threshold itself: O(N), where a sort of 18 million scores takes several times as
long.
Sums are float64: a float32 running sum over 18 million scores stops growing and would select everything.

Order everywhere: value descending, then tensor (in the order given, which callers sort by name), then flat index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.int32]
_LOW_BITS = 16
_LOW_MASK = (1 << _LOW_BITS) - 1
_HIGH_BINS = 1 << (31 - _LOW_BITS)
_LOW_BINS = 1 << _LOW_BITS


@dataclass(frozen=True)
class Cut:
    """A prefix of the order: every element above `bits`, and the first `ties` elements equal to it."""

    bits: int
    """The threshold value's float32 bits; -1 is below every score."""
    ties: int
    """How many elements of exactly that value belong to the prefix, counted by tensor and flat index."""


EVERYTHING = Cut(bits=-1, ties=0)


class MassHistogram:
    """Sum of the scores by the upper bits of their value; answers any theta with one further pass over one bin."""

    def __init__(self, tensors: Sequence[Bits]) -> None:
        """One pass over all scores, given as the bits of non-negative finite float32 values."""
        self._tensors = tensors
        self._sums = np.zeros(_HIGH_BINS)
        for bits in tensors:
            self._sums += np.bincount(bits >> _LOW_BITS, weights=bits.view(np.float32), minlength=_HIGH_BINS)
        self.total = float(self._sums.sum())

    def cut(self, theta: float) -> Cut:
        """The smallest prefix whose float64 sum reaches theta times the total; theta = 1 is everything."""
        if theta == 1:
            return EVERYTHING
        target = theta * self.total
        high, above = _first_reaching(self._sums, target)
        counts = _low_counts(self._tensors, high)
        values = ((np.arange(_LOW_BINS, dtype=np.int32)) | np.int32(high << _LOW_BITS)).view(np.float32)
        # Empty bins of the highest exponent hold no finite value; 0 times infinity must not enter the sums.
        sums = np.where(counts > 0, counts * np.where(counts > 0, values, 0).astype(np.float64), 0.0)
        low, above = _first_reaching(sums, target, above)
        return Cut(bits=(high << _LOW_BITS) | low, ties=_ties(above, float(values[low]), target, int(counts[low])))


def cut_by_count(tensors: Sequence[Bits], count: int) -> Cut:
    """The prefix of exactly `count` elements (of all, where there are no more)."""
    if count <= 0:
        return Cut(bits=np.iinfo(np.int32).max, ties=0)
    if count >= sum(bits.size for bits in tensors):
        return EVERYTHING
    counts = np.zeros(_HIGH_BINS, dtype=np.int64)
    for bits in tensors:
        counts += np.bincount(bits >> _LOW_BITS, minlength=_HIGH_BINS)
    high, above = _first_reaching(counts, count)
    low, above = _first_reaching(_low_counts(tensors, high), count, above)
    return Cut(bits=(high << _LOW_BITS) | low, ties=count - int(above))


def select(tensors: Sequence[Bits], cut: Cut) -> Iterator[npt.NDArray[np.bool_]]:
    """One bool array per tensor, in the same order: True for the elements of the prefix."""
    ties = cut.ties
    for bits in tensors:
        chosen = bits > cut.bits
        if ties:
            equal = np.flatnonzero(bits == cut.bits)[:ties]
            chosen[equal] = True
            ties -= equal.size
        yield chosen


def _low_counts(tensors: Sequence[Bits], high: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(_LOW_BINS, dtype=np.int64)
    for bits in tensors:
        inside = bits[(bits >> _LOW_BITS) == high]
        if inside.size:
            counts += np.bincount(inside & _LOW_MASK, minlength=_LOW_BINS)
    return counts


def _first_reaching(
    amounts: npt.NDArray[np.float64] | npt.NDArray[np.int64], target: float, above: float = 0
) -> tuple[int, float]:
    """The highest bin at which the descending running sum, started at `above`, reaches the target.

    Given with the sum before it. Where rounding keeps the sum an ulp short of the target, it is the last bin that
    holds anything.
    """
    descending = amounts[::-1]
    running = above + np.cumsum(descending)
    reached = int(np.searchsorted(running, target, side="left"))
    if reached == running.size:
        reached = int(np.flatnonzero(descending)[-1])
    before = running[reached - 1] if reached else above
    return amounts.size - 1 - reached, float(before)


def _ties(above: float, value: float, target: float, available: int) -> int:
    """The fewest equal elements k with above + k * value >= target, from 1 to those available."""
    if value == 0:
        return available
    k = min(max(math.ceil((target - above) / value), 1), available)
    while k > 1 and above + (k - 1) * value >= target:
        k -= 1
    while k < available and above + k * value < target:
        k += 1
    return k
