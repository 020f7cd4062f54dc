"""Memory of the C library on a CPU: what torch frees is kept for its next tensor instead of being given back.

glibc hands every block above 32 MB back to the system at once, so that logits and activations fault their pages in anew
each time: on two cores a quarter of the processor time of SFT went there. What lies between two blocks in use is lost
meanwhile, so a stage that begins in a process which has run others gives all of it back once.

Where processes share the base's weights (FSDP2) the opposite holds: each layer's weights are gathered and freed twice a
step, and a heap that keeps them grows to several times the base, in holes between what is in use.
"""

from __future__ import annotations

import gc
import sys
from functools import cache

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
