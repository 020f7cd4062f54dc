"""Whether elements keep their rank of importance: across seeds, across scored rows, and through training.

Spearman's rank correlation of about 3,000 elements, which are the same in every run of an adapter of one size (the
`scatter` of a partition's summary).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lorapar.config.study import StudyConfig
from lorapar.evaluation.intervals import rank_correlation
from lorapar.study.cells import reference_of

if TYPE_CHECKING:
    from lorapar.study.results import Result

OTHER_SEEDS, AFTER_SFT = "other seeds", "after SFT"


@dataclass(frozen=True)
class Correlation:
    """How similar the ranks of one cell's scores are to others."""

    cell: str
    other: str
    """`other seeds` of the cell, the name of another cell with the same seeds, or `after SFT`."""
    system: str
    mean: float
    least: float
    most: float
    pairs: int


def correlations(study: StudyConfig, by_cell: Mapping[str, Sequence[Result]]) -> list[Correlation]:
    """By cell: between its seeds, with the reference of the same seed, and around SFT where it scored again."""
    found = []
    reference = {result.cell.seed: result for result in by_cell.get(reference_of(study), ())}
    for name, own in by_cell.items():
        for system in own[0].cell.config.system_names:
            others = [(one, reference[one.cell.seed]) for one in own if one.cell.seed in reference]
            pairs = {
                OTHER_SEEDS: _alike(combinations(own, 2), system),
                reference_of(study): _alike(iter(others), system) if name != reference_of(study) else [],
                AFTER_SFT: [one.again[system] for one in own if system in one.again],
            }
            found += [
                Correlation(name, other, system, fmean(values), min(values), max(values), len(values))
                for other, values in pairs.items()
                if values
            ]
    return found


def _alike(pairs: Iterator[tuple[Any, ...]], system: str) -> list[float]:
    """Correlations of the pairs with the same elements."""
    return [
        rank_correlation(first.scores[system], second.scores[system])
        for first, second in pairs
        if first.elements == second.elements and system in first.scores and system in second.scores
    ]
