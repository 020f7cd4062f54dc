"""Questions that are alike: MinHash signatures with banded look-up (Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3), and then the exact Jaccard similarity of their 5-character pieces.

Characters and not words, since not every language has blanks between words. Questions with different numbers never
count as equal: `3 apples` and `4 apples` have different answers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PIECE = 5
_BANDS, _ROWS = 32, 4
_MOST_COMPARED = 200
_NUMBER = re.compile(r"\d+")
_SEED = 20261129
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Place:
    """The place of a text among the texts kept before it."""

    duplicate_of: int | None
    """The number of a kept text that is nearly equal; None: there is none."""
    cluster: int
    """The number of its cluster's first text; its own where it begins a cluster."""


class SimilarTexts:
    """Kept texts, each in a cluster around the first similar one; equal calls give equal places."""

    def __init__(self, duplicate: float, cluster: float) -> None:
        """The least Jaccard similarity of duplicates, and of texts in one cluster."""
        self._duplicate, self._cluster = duplicate, cluster
        generator = np.random.default_rng(_SEED)
        self._factors = generator.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = generator.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._pieces: list[Hashes] = []
        self._numbers: list[Counter[str]] = []
        self._clusters: list[int] = []

    def place(self, text: str) -> Place:
        """The place of a text, without keeping it."""
        pieces, numbers = _pieces(text), Counter(_NUMBER.findall(text))
        near = [(_jaccard(pieces, self._pieces[one]), one) for one in self._candidates(pieces)]
        same = [one for likeness, one in near if likeness >= self._duplicate and self._numbers[one] == numbers]
        leaders = [pair for pair in near if self._clusters[pair[1]] == pair[1] and pair[0] >= self._cluster]
        leader = max(leaders, key=lambda pair: (pair[0], -pair[1]))[1] if leaders else len(self._pieces)
        return Place(min(same) if same else None, leader)

    def keep(self, text: str, cluster: int) -> int:
        """Keep a text in a cluster; returns its number."""
        number, pieces = len(self._pieces), _pieces(text)
        self._pieces.append(pieces)
        self._numbers.append(Counter(_NUMBER.findall(text)))
        self._clusters.append(cluster)
        for key in self._keys(pieces):
            self._buckets.setdefault(key, []).append(number)
        return number

    def _candidates(self, pieces: Hashes) -> list[int]:
        """Kept texts that share a band, those with the most shared bands first; only the first ones of very many."""
        counts = Counter(one for key in self._keys(pieces) for one in self._buckets.get(key, ())[:_MOST_COMPARED])
        return [one for one, _ in counts.most_common(_MOST_COMPARED)]

    def _keys(self, pieces: Hashes) -> list[tuple[int, bytes]]:
        signature = np.full(len(self._factors), np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(pieces), 4096):
            mixed = pieces[start : start + 4096, None] * self._factors + self._offsets
            signature = np.minimum(signature, (mixed ^ (mixed >> np.uint64(29))).min(axis=0))
        return [(band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]


def _pieces(text: str) -> Hashes:
    """Hashes of all distinct pieces of five characters, without case and white space; a shorter text is one piece."""
    plain = " ".join(text.casefold().split()).ljust(_PIECE)
    codes = np.frombuffer(plain.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - _PIECE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(_PIECE):
        hashes = (hashes ^ codes[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return np.unique(hashes)


def _jaccard(left: Hashes, right: Hashes) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)
