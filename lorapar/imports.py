"""Imports that take seconds, in one go and without looking for garbage meanwhile.

torch, transformers and PEFT make 650,000 objects when they are imported. All of them stay, yet Python's collector
looks through them again and again: while they come, with the first collections afterwards, and when the process ends.
"""

from __future__ import annotations

import gc
import importlib
import sys

BASE_LIBRARIES = ("transformers.modeling_utils", "transformers.generation")
"""What whoever loads a model by itself imports, whatever model that is."""
MODEL_LIBRARIES = (*BASE_LIBRARIES, "peft")
"""What whoever loads the base model with an adapter imports, whatever model that is."""


def import_at_once(*modules: str) -> None:
    """Import modules, by their full names. Raises ModuleNotFoundError as an import statement does.

    In a process of the command, which has frozen what it imported itself, these are frozen too; a program that imports
    lorapar keeps its own objects as they are.
    """
    missing = [name for name in modules if name not in sys.modules]
    if not missing or not gc.isenabled():
        for name in missing:
            importlib.import_module(name)
        return
    owned = gc.get_freeze_count() > 0
    if owned:
        gc.collect()  # what is garbage now would be kept for ever
    gc.disable()
    try:
        for name in missing:
            importlib.import_module(name)
    finally:
        if owned:
            gc.freeze()
        gc.enable()
