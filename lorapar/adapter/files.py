"""Tensor files: safetensors written whole or not at all, read with one clear error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lorapar.errors import BadInputError, StorageError


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata as safetensors; an interrupted write leaves no half file under the name.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, dict(metadata))
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}; free some space or choose another folder") from error


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        BadInputError: the file is missing, is no safetensors file or is cut short.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"cannot read {path} as safetensors: {error}") from error
