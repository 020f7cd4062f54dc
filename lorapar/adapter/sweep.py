"""What each theta would select, from scores alone: for choosing theta before training anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch

from lorapar.adapter.partition import Partition
from lorapar.adapter.partitioning import check_theta, checked_systems, pack_selection
from lorapar.adapter.selection import MassHistogram


@dataclass(frozen=True)
class SweepRow:
    """The partition at one theta, in numbers."""

    theta: float
    """Share of each system's total score that is kept."""
    total: int
    """Elements of the whole adapter's trainable part."""
    selected: dict[str, int]
    """By system: elements in its set."""
    active: dict[str, int]
    """By system: elements it would train."""
    exclusive: dict[str, int]
    """By system: elements that only it selected."""
    shared: dict[str, int]
    """By system: elements that it and another selected."""
    jaccard: dict[tuple[str, str], float]
    """By pair of systems: intersection over union of their sets."""

    def active_fraction(self, system: str) -> float:
        """Share of all elements that the system would train, 0 to 1."""
        return self.active[system] / self.total


def sweep(
    scores: Mapping[str, Mapping[str, torch.Tensor]],
    thetas: Iterable[float],
    *,
    shared: Mapping[str, float] | None = None,
) -> list[SweepRow]:
    """One row per theta, in the order given.

    The scores' histograms are made once; each theta costs one further pass. No element is ranked within the shared
    region, because only its size matters here.

    Args:
        scores: as for `partition_elements`.
        thetas: values in (0, 1].
        shared: by system, the fraction of its shared elements that it would train; 1 for each where left out.

    Raises:
        BadInputError: as for `partition_elements`.
    """
    thetas = list(thetas)
    for theta in thetas:
        check_theta(theta)
    fractions = dict.fromkeys(scores, 1.0) if shared is None else shared
    bits, shapes = checked_systems(scores, fractions)
    histograms = {system: MassHistogram(list(tensors.values())) for system, tensors in bits.items()}
    rows = []
    for theta in thetas:
        chosen = {s: pack_selection(tensors, histograms[s].cut(theta)) for s, tensors in bits.items()}
        rows.append(_row(Partition(theta, {s: float(fractions[s]) for s in bits}, shapes, chosen, chosen)))
    return rows


def _row(partition: Partition) -> SweepRow:
    sizes = partition.sizes()
    return SweepRow(
        theta=partition.theta,
        total=next(iter(sizes.values())).total,
        selected={s: size.selected for s, size in sizes.items()},
        active={s: z.exclusive + math.floor(partition.shared[s] * z.shared) for s, z in sizes.items()},
        exclusive={s: size.exclusive for s, size in sizes.items()},
        shared={s: size.shared for s, size in sizes.items()},
        jaccard={(a, b): partition.jaccard(a, b) for a, b in combinations(partition.systems, 2)},
    )
