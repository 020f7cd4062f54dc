"""Tensor files: safetensors written whole or not at all, read with one clear error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from lorapar.errors import BadInputError, StorageError
from lorapar.store.file_system import is_no_mmap, replace_path, warn_no_mmap

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_PUBLISHED = "adapter_model.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata as safetensors; an interrupted write leaves no half file under the name.

    Equal contents give equal bytes, so that digests of artifacts can be compared.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, dict(metadata))
        _order_metadata(part)
        replace_path(part, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise StorageError(f"cannot write {path}: {error}; free some space or choose another folder") from error


def _order_metadata(path: Path) -> None:
    """Sort the header's metadata, which safetensors writes in an order that changes from call to call."""
    with path.open("r+b") as file:
        size_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size_bytes))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size_bytes)
        # The same keys and values take the same room; were a character written another way, the file stays as it is.
        if len(ordered) == size_bytes:
            file.seek(8)
            file.write(ordered)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        BadInputError: the file is missing, is no safetensors file or is cut short.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            # In the file's order it would change from call to call, and with it what is written from it.
            return tensors, dict(sorted((opened.metadata() or {}).items()))
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_no_mmap(error):
            warn_no_mmap(path.parent, error)
            return _read_whole(path)
        if isinstance(error, RuntimeError) and not isinstance(error, SafetensorError):
            raise
        raise BadInputError(f"cannot read {path} as safetensors: {error}") from error


def _read_whole(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return load(data), dict(sorted(header.get("__metadata__", {}).items()))
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"cannot read {path} as safetensors: {error}") from error


def load_published(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The base with the adapter of a PEFT folder, loaded as any program would: by plain PEFT.

    Where the folder's file system cannot map files, PEFT is handed the bytes in its own way of reading them.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    from lorapar.adapter.kinds import number_prompts

    try:
        with safe_open(folder / _PUBLISHED, framework="pt"):
            pass
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_no_mmap(error):
            warn_no_mmap(folder, error)
            model = PeftModel(base, PeftConfig.from_pretrained(str(folder)))
            set_peft_model_state_dict(model, _read_whole(folder / _PUBLISHED)[0])
            number_prompts(model)
            return model
    model = PeftModel.from_pretrained(base, str(folder))
    number_prompts(model)
    return model
