"""One digest for the base model's weights: the proof that training never touched them."""

from __future__ import annotations

import hashlib

import torch

from lorapar.adapter.names import LORA_KEY, canonical_name

_PEFT_PREFIX = "base_model.model."


def base_digest(model: torch.nn.Module) -> str:
    """SHA-256 (64 hex digits) over the names, dtypes, shapes and bytes of all base parameters and saved buffers.

    LoRA tensors are left out and names are as in the bare model, so the digest is the same before and after an
    adapter is attached or trained. Quantised weights count with their quantisation state.
    """
    entries = {
        _base_name(key): tensor
        for key, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not LORA_KEY.search(key)
    }
    digest = hashlib.sha256()
    for name in sorted(entries):
        tensor = whole(entries[name].detach())
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, whose parts other processes may hold: then all of them ask for it, in the same order."""
    gather = getattr(tensor, "full_tensor", None)  # of a DTensor, whose module takes long to import
    return tensor if gather is None else gather()


def _base_name(key: str) -> str:
    return canonical_name(key).removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".")
