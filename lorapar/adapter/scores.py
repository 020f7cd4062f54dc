"""Scores as data: what is admissible, and their file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lorapar.adapter.files import read_tensors, write_tensors
from lorapar.adapter.selection import Bits
from lorapar.errors import BadInputError

_FORMAT_KEY = "lorapar.format"
_FORMAT = "scores/1"
_INFINITY_BITS = 0x7F800000


def save_scores(path: str | Path, scores: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write one system's scores as safetensors, with provenance (base model and revision, data digest, ...).

    Raises:
        StorageError: the file cannot be written.
    """
    write_tensors(Path(path), scores, {**metadata, _FORMAT_KEY: _FORMAT})


def load_scores(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """One system's scores, keyed like the PEFT state dict, and the metadata they were saved with.

    Raises:
        BadInputError: the file is missing, damaged, or holds something other than scores.
    """
    tensors, metadata = read_tensors(Path(path))
    if metadata.pop(_FORMAT_KEY, None) != _FORMAT:
        raise BadInputError(f"{path} holds no scores that this version reads: save_scores() writes them")
    return dict(sorted(tensors.items())), metadata


def score_bits(system: str, scores: Mapping[str, torch.Tensor]) -> dict[str, Bits]:
    """The scores of one system as float32 bits, flat, by tensor name in sorted order; checked on the way.

    Raises:
        BadInputError: there is no score, a tensor is not float32, holds a negative, NaN or infinite score, or nothing
            but zeros. The message names the system and the tensor.
    """
    if not any(tensor.numel() for tensor in scores.values()):
        raise BadInputError(f"system '{system}' has no scores: score at least one LoRA tensor")
    return {name: _checked_bits(system, name, scores[name]) for name in sorted(scores)}


def _checked_bits(system: str, name: str, tensor: torch.Tensor) -> Bits:
    where = f"the scores of '{name}' for system '{system}'"
    if tensor.dtype != torch.float32:
        raise BadInputError(f"{where} are {tensor.dtype}, not float32 as score_elements() gives them")
    values: npt.NDArray[np.float32] = tensor.detach().cpu().contiguous().reshape(-1).numpy()
    bits: Bits = values.view(np.int32)
    if not bits.size:
        return bits
    if bits.min() < 0:  # the sign bit: a negative number, or the harmless -0.0
        if not np.isfinite(values).all():
            raise BadInputError(f"{where} contain NaN or infinity: score again, in float32 or bfloat16")
        if values.min() < 0:
            raise BadInputError(f"{where} contain negative numbers: importance is an absolute value")
        bits = np.abs(values).view(np.int32)
    if bits.max() >= _INFINITY_BITS:
        raise BadInputError(f"{where} contain NaN or infinity: score again, in float32 or bfloat16")
    if bits.max() == 0:
        raise BadInputError(
            f"{where} are all zero, so nothing in it can be ranked: A and B must both start non-zero (any adapter.init "
            "does), the examples must reach this layer, and the model must not multiply what it gives by zero, as an "
            "untrained one may; leave such a module out of adapter.layout"
        )
    return bits
