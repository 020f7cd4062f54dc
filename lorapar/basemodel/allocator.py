"""Memory of the C library on a CPU: what torch frees is kept for its next tensor instead of being given back.

glibc hands every block above 32 MB back to the system at once, so that logits and activations fault their pages in anew
each time: on two cores a quarter of the processor time of SFT went there. What lies between two blocks in use is lost
meanwhile, so a stage that begins in a process which has run others gives all of it back once.
"""

from __future__ import annotations

import gc
from functools import cache

# Numbers of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; returns whether it could be told (not on musl or macOS)."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES))


def give_back_freed_memory() -> bool:
    """Drop what nothing refers to and return freed pages to the system; whether the C library could do that."""
    import ctypes

    gc.collect()  # trainers and models refer to themselves in circles
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
