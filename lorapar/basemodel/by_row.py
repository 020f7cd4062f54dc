"""Whether what a model computes of a row depends on the rows beside it: by its number format and its positions."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_STRETCHED = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies follow the longest row of a batch."""


def is_exact(model: torch.nn.Module, *, autocast: bool = False) -> bool:
    """Whether rows beside it move what is computed of a row by float32's rounding only, a millionth of a logit.

    In narrower formats they move it enough to turn an answer. Weights in 4 bits are exact where the layer computes in
    float32; layers in 8 bits look for columns of outliers in the whole batch.
    """
    return not autocast and not has_stretched_positions(model) and all(map(_computes_in_float32, model.modules()))


def has_stretched_positions(model: torch.nn.Module) -> bool:
    """Whether positions depend on the longest row beside a row, in any number format."""
    kinds: list[object] = []
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        kinds += kind.values() if isinstance(kind, Mapping) else [kind]
    return any(name in str(kind) for kind in kinds for name in _STRETCHED)


def is_packed(module: torch.nn.Module) -> bool:
    """Whether a module itself holds weights in 8 or 4 bits."""
    return any(not one.is_floating_point() for one in module.parameters(recurse=False))


def _computes_in_float32(module: torch.nn.Module) -> bool:
    if is_packed(module) and getattr(module, "compute_dtype", None) != torch.float32:
        return False
    return all(one.dtype == torch.float32 for one in module.parameters(recurse=False) if one.is_floating_point())
