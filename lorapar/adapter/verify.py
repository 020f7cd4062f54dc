"""After training: only the mask's elements moved, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorapar.adapter.masked_training import check_mask
from lorapar.adapter.names import DEFAULT_ADAPTER, adapter_parameters, trainable_slice
from lorapar.errors import TrainingError

_BIT_TYPES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Moved:
    """How much a run changed."""

    active: int
    """Elements the run was to train."""
    moved: int
    """Those of them whose bits changed."""


def snapshot(model: torch.nn.Module, adapter_name: str = DEFAULT_ADAPTER) -> dict[str, torch.Tensor]:
    """A CPU copy of an adapter's tensors, keyed like the PEFT state dict."""
    return {name: p.detach().to("cpu", copy=True) for name, p in adapter_parameters(model, adapter_name).items()}


def check_only_active_moved(
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    mask: Mapping[str, torch.Tensor],
    rank: int,
) -> Moved:
    """Compare two snapshots of an adapter under a mask.

    Args:
        before: snapshot taken before training.
        after: snapshot taken after it.
        mask: bool tensors by name, each of its trainable slice's shape.
        rank: trainable rank r.

    Raises:
        TrainingError: an inactive element's bits or a tensor's dtype changed (the tensor is named), or no active
            element moved.
        BadInputError: the mask does not fit the tensors.
    """
    found = check_frozen(before, after, mask, rank)
    if found.moved == 0:
        raise TrainingError(
            f"none of the {found.active} active elements moved: the learning rate is zero, every gradient is zero "
            "(in RL: every reward of each group is the same), or another adapter was trained"
        )
    return found


def check_frozen(
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    mask: Mapping[str, torch.Tensor],
    rank: int,
) -> Moved:
    """As `check_only_active_moved`, of a run that is under way: nothing need have moved yet."""
    check_mask(before, mask, rank)
    active = moved = 0
    for name, old in before.items():
        changed = _changed(name, old, after[name])
        allowed = torch.zeros(old.shape, dtype=torch.bool)
        trainable_slice(name, allowed, rank).copy_(mask[name])
        strays = int((changed & ~allowed).sum())
        if strays:
            raise TrainingError(
                f"{strays} frozen elements of '{name}' changed during training, which masked_training prevents: "
                "use the optimiser it gives, and nothing else that writes to the adapter"
            )
        active += int(allowed.sum())
        moved += int(changed.sum())
    return Moved(active=active, moved=moved)


def _changed(name: str, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if old.dtype != new.dtype or old.shape != new.shape:
        raise TrainingError(
            f"'{name}' was {old.dtype} {tuple(old.shape)} before training and is {new.dtype} {tuple(new.shape)} "
            "after it: something cast or replaced the adapter (see MaskedTraining.undo_casts)"
        )
    kind = _BIT_TYPES[old.element_size()]
    # Bits, not values: NaN equals NaN and -0.0 differs from 0.0.
    return old.contiguous().view(kind) != new.contiguous().view(kind)
