"""One digest for the base model's weights: the proof that training never touched them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from lorapar.adapter.kinds import is_prompt
from lorapar.adapter.names import ADAPTER_KEY, canonical_name

_PEFT_PREFIX = "base_model.model."


def base_digest(model: torch.nn.Module) -> str:
    """SHA-256 (64 hex digits) over the names, dtypes, shapes and bytes of all base parameters and saved buffers.

    The adapter's tensors are left out and names are as in the bare model, so the digest is the same before and after an
    adapter is attached or trained. Quantised weights count with their quantisation state.
    """
    held: Any = model
    if is_prompt(model):  # prompts are beside the base, not in it
        held = held.get_base_model()
    entries = {
        _base_name(key): tensor
        for key, tensor in held.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not ADAPTER_KEY.search(key)
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
