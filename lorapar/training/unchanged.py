"""What a person's own function leaves as it found it: the working folder, and torch's modes and random numbers.

A reward that seeds torch would have every step sample the same completions, and one that switches gradients off would
end training; both are meant for its own work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def state_kept() -> Iterator[None]:
    """Put back what the block changes of this process; torch's part where torch is loaded before it begins."""
    with _folder_kept(), _torch_kept():
        yield


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)


@contextlib.contextmanager
def _torch_kept() -> Iterator[None]:
    if "torch" not in sys.modules:
        yield
        return
    import torch

    gradients, number_format = torch.is_grad_enabled(), torch.get_default_dtype()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(number_format)
