"""The partition: who selected which LoRA element, and who trains it (made by `partitioning`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorapar.adapter.files import read_tensors, write_tensors
from lorapar.adapter.names import layer_and_module, module_labels
from lorapar.adapter.packed import Packed, count_bits, regions_by_tensor, unpack
from lorapar.errors import BadInputError, nearest

_FORMAT = "partition/1"
_KEY = "lorapar.partition"


@dataclass(frozen=True)
class SystemSizes:
    """Element counts of one system's set."""

    total: int
    """Elements of the whole adapter's trainable part."""
    selected: int
    """Elements in the system's set: exclusive + shared."""
    exclusive: int
    """Selected by this system only."""
    shared: int
    """Selected by this system and at least one other."""
    active: int
    """Elements the system trains."""

    @property
    def active_fraction(self) -> float:
        """Share of all elements that the system trains, 0 to 1."""
        return self.active / self.total


@dataclass(frozen=True)
class RegionCount:
    """Element counts of one module type in one layer (its A and B together)."""

    layer: int | None
    """Layer number; None outside numbered layers."""
    module: str
    """Module name, e.g. 'q_proj'; with the block it is in where a layer has two of that name, 'mlp.c_proj'."""
    total: int
    """All trainable elements there."""
    exclusive: dict[str, int]
    """By system: elements that only it selected."""
    shared: int
    """Elements selected by several systems."""


@dataclass(frozen=True)
class Partition:
    """One bit per system and element: who selected it; and who trains it, where that differs.

    Tensors are held as packed bits (numpy, little bit order) by name in sorted order.
    """

    theta: float
    """Share of each system's total score that its set reaches."""
    shared: dict[str, float]
    """By system: the fraction of its shared elements that it may train. Its keys are the systems' names."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of every tensor's trainable slice, by name."""
    selected_bits: dict[str, dict[str, Packed]] = field(repr=False)
    """By system and tensor: the selected elements."""
    active_bits: dict[str, dict[str, Packed]] = field(repr=False)
    """By system and tensor: the elements it trains; the same object as `selected_bits` where the fraction is 1."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Provenance that was saved with it."""

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems' names, in the order they were given."""
        return tuple(self.shared)

    def mask(self, system: str) -> dict[str, torch.Tensor]:
        """The elements this system trains, as bool tensors by name, each of its trainable slice's shape."""
        return self._tensors(self.active_bits[self._known(system)])

    def selected(self, system: str) -> dict[str, torch.Tensor]:
        """The system's whole set (exclusive and shared), as bool tensors by name."""
        return self._tensors(self.selected_bits[self._known(system)])

    def sizes(self) -> dict[str, SystemSizes]:
        """Element counts by system."""
        total = sum(math.prod(shape) for shape in self.shapes.values())
        own: dict[str, int] = dict.fromkeys(self.systems, 0)
        for regions in regions_by_tensor(self.selected_bits):
            for system, bits in regions.exclusive.items():
                own[system] += count_bits(bits)
        sizes = {}
        for system in self.systems:
            selected = sum(map(count_bits, self.selected_bits[system].values()))
            active = sum(map(count_bits, self.active_bits[system].values()))
            sizes[system] = SystemSizes(total, selected, own[system], selected - own[system], active)
        return sizes

    def jaccard(self, a: str, b: str) -> float:
        """Size of the two sets' intersection over that of their union, 0 to 1."""
        first, second = self.selected_bits[self._known(a)], self.selected_bits[self._known(b)]
        both = sum(count_bits(first[name] & second[name]) for name in self.shapes)
        either = sum(count_bits(first[name] | second[name]) for name in self.shapes)
        return both / either

    def counts_by_layer_and_module(self) -> list[RegionCount]:
        """Region sizes by layer and module, sorted by layer number and then by module name."""
        counts: dict[tuple[int, str], RegionCount] = {}
        labels = module_labels(self.shapes)
        for name, regions in zip(self.shapes, regions_by_tensor(self.selected_bits), strict=True):
            layer, _ = layer_and_module(name)
            module = labels[name]
            key = (-1 if layer is None else layer, module)
            before = counts.get(key) or RegionCount(layer, module, 0, dict.fromkeys(self.systems, 0), 0)
            counts[key] = RegionCount(
                layer,
                module,
                before.total + math.prod(self.shapes[name]),
                {s: before.exclusive[s] + count_bits(bits) for s, bits in regions.exclusive.items()},
                before.shared + count_bits(regions.shared),
            )
        return [counts[key] for key in sorted(counts)]

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write it as safetensors, with provenance (base model and revision, adapter settings, data digests, ...).

        Raises:
            StorageError: the file cannot be written.
        """
        tensors = {
            f"{s}/selected/{n}": torch.from_numpy(b) for s, by in self.selected_bits.items() for n, b in by.items()
        }
        for system, by_name in self.active_bits.items():
            if by_name is not self.selected_bits[system]:
                tensors |= {f"{system}/active/{name}": torch.from_numpy(bits) for name, bits in by_name.items()}
        header = {"format": _FORMAT, "theta": self.theta, "shared": self.shared, "shapes": self.shapes}
        write_tensors(Path(path), tensors, {**metadata, _KEY: json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Partition:
        """Read what `save` wrote; its provenance is in `metadata`.

        Raises:
            BadInputError: the file is missing, damaged, or holds something other than a partition.
        """
        tensors, metadata = read_tensors(Path(path))
        header = json.loads(metadata.pop(_KEY, "{}"))
        if header.get("format") != _FORMAT:
            raise BadInputError(f"{path} holds no partition that this version reads: Partition.save() writes them")
        shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
        selected = {s: _read_bits(tensors, f"{s}/selected/", shapes) for s in header["shared"]}
        active = {s: _read_bits(tensors, f"{s}/active/", shapes) or selected[s] for s in header["shared"]}
        return cls(header["theta"], header["shared"], shapes, selected, active, metadata)

    def _tensors(self, bits: Mapping[str, Packed]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(unpack(bits[name], math.prod(shape))).reshape(shape)
            for name, shape in self.shapes.items()
        }

    def _known(self, system: str) -> str:
        if system not in self.shared:
            raise BadInputError(
                f"the partition has no system '{system}'{nearest(system, list(self.systems))}: "
                f"it has {', '.join(self.systems)}"
            )
        return system


def _read_bits(tensors: Mapping[str, torch.Tensor], prefix: str, shapes: Mapping[str, object]) -> dict[str, Packed]:
    return {name: tensors[prefix + name].numpy() for name in shapes if prefix + name in tensors}
