"""Fix vLLM's LoRA on the CPU: requests for the base model got the weights of the last adapter slot.

vLLM marks tokens without an adapter with the index -1. Its GPU kernels skip them; the PyTorch operators of the CPU use
-1 as an index and so take the last slot (vLLM 0.32; proposed fix: vllm-project/vllm pull request 48421). One slot more
than adapters hides this only until all slots have been used: `/v1/unload_lora_adapter` of vLLM 0.32 forgets the name
but leaves the weights in their slot.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

_OPERATORS = "vllm.lora.ops.torch_ops.lora_ops"
_USERS = ("vllm.lora.ops.torch_ops", "vllm.lora.punica_wrapper.punica_cpu")
_PATCHED = "_lorapar_patched"


def patch_cpu_lora() -> bool:
    """Make the CPU operators add nothing where a token has no adapter; returns whether they are fixed now.

    Only the first half of a LoRA (`bgmv_shrink`, x times A) needs the fix: where its result is zero, so is the rest.
    Safe to call again; False where this vLLM does not have the operators.
    """
    try:
        operators = importlib.import_module(_OPERATORS)
        shrink = operators.bgmv_shrink
        users = [importlib.import_module(name) for name in _USERS]
    except (ImportError, AttributeError):
        return False
    if not hasattr(shrink, _PATCHED):
        fixed = _without_base_tokens(shrink)
        for module in (operators, *users):
            if getattr(module, "bgmv_shrink", None) is shrink:
                module.bgmv_shrink = fixed  # type: ignore[attr-defined]
    return True


def _without_base_tokens(shrink: Callable[..., None]) -> Callable[..., None]:
    """`bgmv_shrink(x (tokens, d), A (slots, 1, r, d), y (tokens, r), slot of each token, scaling)`, y zero where -1."""

    @functools.wraps(shrink)
    def fixed(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output[: indices.shape[0]][indices < 0] = 0

    setattr(fixed, _PATCHED, True)
    return fixed
