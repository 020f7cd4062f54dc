"""Which LoRA element belongs to which system.

Source: LoRA-PAR, section 3.2. Per system, the smallest prefix of the elements (by score, descending) whose sum reaches
theta of the total is selected. An element selected by one system only is that system's own ("exclusive"); one selected
by several is shared. A system trains its exclusive elements and, of the shared ones that it selected, the
floor(fraction * number) with its highest scores (alpha and beta in the paper, for two systems).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from lorapar.adapter.packed import Packed, pack, regions_by_tensor, unpack
from lorapar.adapter.partition import Partition
from lorapar.adapter.scores import score_bits
from lorapar.adapter.selection import Bits, Cut, MassHistogram, cut_by_count, select
from lorapar.errors import BadInputError

_SYSTEM_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def partition_elements(
    scores: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    theta: float,
    shared: Mapping[str, float],
    counts: Mapping[str, int] | None = None,
) -> Partition:
    """Select each system's elements and decide which of the shared ones it trains.

    Args:
        scores: by system's name (any number of systems), its float32 scores by tensor name.
        theta: share of each system's total score to keep, 0 < theta <= 1; 1 keeps every element.
        shared: by system's name, the fraction (0 to 1) of its shared elements that it trains.
        counts: by system's name, how many elements its set has, the best scores first; theta then decides nothing.

    Raises:
        BadInputError: theta or a fraction is out of range, the systems of `scores` and `shared` differ, the systems
            score different tensors, or scores are all zero, negative, NaN or infinite (naming the tensor).
    """
    check_theta(theta)
    bits, shapes = checked_systems(scores, shared)
    selected: dict[str, dict[str, Packed]] = {}
    for system, tensors in bits.items():
        flat = list(tensors.values())
        cut = MassHistogram(flat).cut(theta) if counts is None else cut_by_count(flat, counts[system])
        selected[system] = pack_selection(tensors, cut)
    active = {system: _active(system, bits, selected, float(shared[system])) for system in bits}
    return Partition(theta, {s: float(shared[s]) for s in bits}, shapes, selected, active)


def random_partition_like(partition: Partition, seed: int) -> Partition:
    """A partition with the same sizes, regions and active counts, whose elements are drawn at random.

    One random permutation of all elements is applied to every system, so that exclusive and shared regions keep their
    sizes exactly: the comparison of the paper's table 3 (importance against as many random elements).
    """
    order = np.random.default_rng(seed).permutation(sum(math.prod(shape) for shape in partition.shapes.values()))

    def shuffled(tensors: dict[str, Packed]) -> dict[str, Packed]:
        sizes = {name: math.prod(shape) for name, shape in partition.shapes.items()}
        flat = np.concatenate([unpack(tensors[name], size) for name, size in sizes.items()])[order]
        parts = np.split(flat, np.cumsum(list(sizes.values()))[:-1])
        return {name: pack(part) for name, part in zip(sizes, parts, strict=True)}

    selected = {system: shuffled(tensors) for system, tensors in partition.selected_bits.items()}
    active = {
        system: selected[system] if tensors is partition.selected_bits[system] else shuffled(tensors)
        for system, tensors in partition.active_bits.items()
    }
    return Partition(partition.theta, dict(partition.shared), dict(partition.shapes), selected, active)


def whole_partition(shapes: Mapping[str, Sequence[int]], systems: Sequence[str]) -> Partition:
    """Every element is in every system's set, and each trains all: of adapters that are not divided.

    `shapes` are those of the adapter's tensors, by name.
    """
    sizes = {name: tuple(shape) for name, shape in sorted(shapes.items())}
    shared = dict.fromkeys(systems, 1.0)
    selected = {system: _all_of(sizes) for system in systems}
    return Partition(1.0, shared, sizes, selected, dict(selected))


def combined(partitions: Mapping[str, Partition]) -> Partition:
    """By system, the set and what it trains, from a partition of the same adapter for each system."""
    first = next(iter(partitions.values()))
    return replace(
        first,
        selected_bits={system: own.selected_bits[system] for system, own in partitions.items()},
        active_bits={system: own.active_bits[system] for system, own in partitions.items()},
    )


def only(partition: Partition, systems: Sequence[str]) -> Partition:
    """What these systems train and nothing of the others, so that it is the same whatever those train.

    Their sets are what they train: of which elements are shared nothing is left.
    """
    active = {system: partition.active_bits[system] for system in systems}
    return replace(
        partition,
        shared={system: partition.shared[system] for system in systems},
        selected_bits=active,
        active_bits=dict(active),
    )


def _all_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, Packed]:
    """Arrays of its own for each system: safetensors saves none twice."""
    return {name: pack(np.ones(math.prod(shape), dtype=np.bool_)) for name, shape in shapes.items()}


def unmasked(partition: Partition, systems: Iterable[str]) -> Partition:
    """The same sets, but these systems train every element: what training is without the mask."""
    bare = {system: _all_of(partition.shapes) for system in systems}
    return replace(partition, active_bits={**partition.active_bits, **bare})


def check_theta(theta: float) -> None:
    """Raise BadInputError unless 0 < theta <= 1."""
    if not 0 < theta <= 1:  # also refuses NaN
        raise BadInputError(f"theta is {theta}: it must be above 0 and at most 1 (0.9 to 0.95 did best in the paper)")


def checked_systems(
    scores: Mapping[str, Mapping[str, torch.Tensor]], shared: Mapping[str, float]
) -> tuple[dict[str, dict[str, Bits]], dict[str, tuple[int, ...]]]:
    """The systems' score bits and the shapes they agree on; raises BadInputError (see `partition_elements`)."""
    if not scores or set(scores) != set(shared):
        raise BadInputError(
            f"scores are for the systems {sorted(scores)} and shared fractions for {sorted(shared)}: give both for each"
        )
    for system, fraction in shared.items():
        if not _SYSTEM_NAME.fullmatch(system):
            raise BadInputError(f"'{system}' is no system name: use letters, digits, '_', '-' and '.'")
        if not 0 <= fraction <= 1:
            raise BadInputError(f"the shared fraction of '{system}' is {fraction}: it must be between 0 and 1")
    first, *others = scores
    shapes = {name: tuple(scores[first][name].shape) for name in sorted(scores[first])}
    for system in others:
        theirs = {name: tuple(tensor.shape) for name, tensor in scores[system].items()}
        if theirs != shapes:
            name = sorted(set(theirs.items()) ^ set(shapes.items()))[0][0]
            raise BadInputError(f"'{first}' and '{system}' score different tensors ('{name}'): score the same adapter")
    return {system: score_bits(system, tensors) for system, tensors in scores.items()}, shapes


def pack_selection(tensors: Mapping[str, Bits], cut: Cut) -> dict[str, Packed]:
    """The elements of a cut, packed, by tensor name."""
    return {name: pack(chosen) for name, chosen in zip(tensors, select(list(tensors.values()), cut), strict=True)}


def _active(
    system: str, bits: Mapping[str, Mapping[str, Bits]], selected: dict[str, dict[str, Packed]], fraction: float
) -> dict[str, Packed]:
    """What a system trains: its exclusive elements and the best `fraction` of its shared ones."""
    mine = selected[system]
    if fraction == 1:
        return mine
    common = {n: mine[n] & regions.shared for n, regions in zip(mine, regions_by_tensor(selected), strict=True)}
    where = {n: np.flatnonzero(unpack(common[n], tensor.size)) for n, tensor in bits[system].items()}
    candidates: Sequence[Bits] = [bits[system][n][index] for n, index in where.items()]
    wanted = math.floor(fraction * sum(index.size for index in where.values()))
    active = {}
    for (name, index), chosen in zip(where.items(), select(candidates, cut_by_count(candidates, wanted)), strict=True):
        kept = np.zeros(bits[system][name].size, dtype=np.bool_)
        kept[index[chosen]] = True
        active[name] = (mine[name] & ~common[name]) | pack(kept)
    return active
