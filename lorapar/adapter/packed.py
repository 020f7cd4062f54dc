"""Element sets as packed bits: one bit an element, so that a partition carries many systems cheaply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Packed = npt.NDArray[np.uint8]


def pack(flags: npt.NDArray[np.bool_]) -> Packed:
    """Eight bools a byte, the last byte filled up with False."""
    return np.packbits(flags, bitorder="little")


def unpack(bits: Packed, size: int) -> npt.NDArray[np.bool_]:
    """The first `size` bools of packed bits."""
    return np.unpackbits(bits, count=size, bitorder="little").view(np.bool_)


def count_bits(bits: Packed) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum())


@dataclass(frozen=True)
class Regions:
    """One tensor's packed regions."""

    exclusive: dict[str, Packed]
    shared: Packed


def regions_by_tensor(selected: Mapping[str, Mapping[str, Packed]]) -> Iterator[Regions]:
    """For every tensor, in order: what exactly one system selected, by system, and what several selected."""
    for name in next(iter(selected.values())):
        once = twice = np.zeros(1, dtype=np.uint8)
        for tensors in selected.values():
            twice = twice | (once & tensors[name])
            once = once | tensors[name]
        yield Regions({system: tensors[name] & ~twice for system, tensors in selected.items()}, twice)
