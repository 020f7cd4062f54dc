"""Two habits of the C library and of PyTorch that cost memory or time with models on a CPU, changed.

`keep_freed_memory` and its opposite: glibc returns every block above 32 MB to the system at once, so that logits and
activations fault their pages in again each time: on two cores a quarter of the processor time of SFT went there. Memory
between two blocks in use is lost meanwhile, so a stage that begins in a process which has run others returns all of it
once. Where processes share the base's weights (FSDP2) the opposite holds: each layer's weights are gathered and freed
twice a step, and a heap that keeps them grows to several times the base, in holes between what is in use.

`make_head_input_contiguous` keeps PyTorch from copying the output matrix once for every row of a batch. Generation and
GRPO ask for the logits of the last positions only, so transformers hands the output head a slice that is not
contiguous. For such an input and a weight that needs no gradient (any base model under an adapter), PyTorch's matmul
repeats the weight for each row, on the CPU in bfloat16 as a real copy: 1.8 GB for 32 rows of SmolLM2-135M, which
doubled the time of reading the prompts (6.6 to 3.1 s).
"""

from __future__ import annotations

import gc
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Numbers of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_BLOCKS = 65536  # glibc's own number of blocks outside the heap
_GATHERED_BYTES = 2**20
_NEVER_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; returns whether it could be told (not on musl or macOS)."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES))


def give_back_large_blocks() -> bool:
    """Tell glibc to hold blocks of 1 MB and more outside its heap, so that each is gone once it is freed.

    By itself it begins so too, but keeps blocks up to 32 MB once the first such block was freed. Returns whether it
    could be told; `keep_freed_memory` in the same process would undo it.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, _BLOCKS) and mallopt(_M_MMAP_THRESHOLD, _GATHERED_BYTES))


def give_back_freed_memory() -> bool:
    """Drop what nothing refers to and return freed pages to the system; whether the C library could do that."""
    import ctypes

    gc.collect()  # trainers and models refer to themselves in circles
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():  # a stage's own processes, one a GPU, come next
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def make_head_input_contiguous(model: PreTrainedModel) -> None:
    """Give the output head contiguous inputs from now on; the same numbers, and no cost where they are already."""
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)


def _contiguous(_head: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = inputs
    return (hidden.contiguous(), *others)
