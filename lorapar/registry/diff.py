"""What two versions differ in: their settings and lineage by key, their weights by how many numbers moved how far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.records import differences
from lorapar.registry.overview import lineage_of
from lorapar.registry.package import WEIGHTS_FILE
from lorapar.registry.registry import Registry


@dataclass(frozen=True)
class Difference:
    """One key of the lineages that is not the same."""

    key: str
    left: Any
    """None: not there."""
    right: Any


@dataclass(frozen=True)
class WeightDifference:
    """How far apart two sets of weights are."""

    tensors: int
    """Tensors that both have, in the same shape."""
    other_tensors: int
    """Tensors that only one has, or in another shape."""
    elements: int
    changed: int
    """Elements that are not equal."""
    largest: float
    relative: float
    """Norm of the difference over the norm of the left weights."""


def lineage_differences(registry: Registry, left: str, right: str) -> list[Difference]:
    """Every key of lineage.json that differs, settings first."""
    old, new = (lineage_of(registry, registry.resolve(reference)) for reference in (left, right))
    found = [Difference(*one) for one in differences(old, new)]
    return sorted(found, key=lambda difference: not difference.key.startswith("settings."))


def weight_difference(registry: Registry, left: str, right: str, scratch: Path) -> WeightDifference:
    """Compare the weights of two versions, fetched and verified into `scratch`; one tensor in memory at a time."""
    from safetensors import safe_open

    for place, reference in (("left", left), ("right", right)):
        registry.pull(reference, scratch / place)
    with (
        safe_open(scratch / "left" / WEIGHTS_FILE, "numpy") as old,
        safe_open(scratch / "right" / WEIGHTS_FILE, "numpy") as new,
    ):
        return _compare(old, new)


def _compare(old: Any, new: Any) -> WeightDifference:
    import numpy as np

    names, others = set(old.keys()), set(new.keys())
    shared = [n for n in sorted(names & others) if old.get_slice(n).get_shape() == new.get_slice(n).get_shape()]
    elements = changed = 0
    largest = squares = base = 0.0
    for name in shared:
        left, right = (side.get_tensor(name).astype(np.float64) for side in (old, new))
        delta = np.abs(right - left)
        elements, changed = elements + delta.size, changed + int(np.count_nonzero(delta))
        largest = max(largest, float(delta.max(initial=0.0)))
        squares, base = squares + float((delta**2).sum()), base + float((left**2).sum())
    return WeightDifference(
        tensors=len(shared),
        other_tensors=len(names | others) - len(shared),
        elements=elements,
        changed=changed,
        largest=largest,
        relative=(squares / base) ** 0.5 if base else 0.0,
    )
