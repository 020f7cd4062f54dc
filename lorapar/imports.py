"""Slow imports in one place, with garbage collection off and without packages that no language model needs.

torch, transformers and PEFT make 650,000 objects when they are imported. All of them stay, yet Python's collector
looks through them again and again: while they come, with the first collections afterwards, and when the process ends.

transformers 5.19 and 5.23 import what is installed: scipy for the losses of object detection alone, scikit-learn for
assisted generation with a threshold, and accelerate boto3 for a questionnaire about SageMaker. In the image vllm that
is a second, elsewhere 0.3 s. TRL 1.16 imports mlflow to time functions with it, a sixth of what a training stage
imports; what tracks a run (`lorapar.tracking`) finds it all the same. And transformers reads the files of all models
twice, 0.25 s each time: of the 548 folders it has read it remembers 128 (utils/import_utils.py,
create_import_structure_from_path).
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

BASE_LIBRARIES = ("transformers.modeling_utils", "transformers.generation.utils")
"""Imports of code that loads any model by itself."""
MODEL_LIBRARIES = (*BASE_LIBRARIES, "peft")
"""Imports of code that loads any base model with an adapter."""
TRAINING_LIBRARIES = (*MODEL_LIBRARIES, "trl.extras.profiling")
"""Imports of code that trains; the rest of TRL comes with it."""
_UNNEEDED = {**dict.fromkeys(BASE_LIBRARIES, ("scipy", "sklearn", "boto3")), "trl.extras.profiling": ("mlflow",)}
"""What a module imports where it is there, and does without where it is not."""
_READER = "transformers.utils.import_utils"


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
            if owned and name in _UNNEEDED:
                _import_alone(name)
            importlib.import_module(name)
    finally:
        if owned:
            gc.freeze()
        gc.enable()


def _import_alone(name: str) -> None:
    """Import a module, where that can be done, without what it does without."""
    with suppress(ImportError), _read_once(), _held_back(*_UNNEEDED[name]):
        importlib.import_module(name)


@contextmanager
def _held_back(*names: str) -> Iterator[None]:
    """Let nothing that is imported meanwhile find these modules, unless they are there already."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # so Python says that there is none
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        reader = sys.modules.get(_READER)
        for name in absent:  # what it remembers is true no more
            forget = getattr(getattr(reader, f"is_{name}_available", None), "cache_clear", None)
            if forget is not None:
                forget()


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers, where it is imported meanwhile, read each folder of its models once."""
    finder = _ReaderFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ReaderFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _READER else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _ReaderLoader(fullname, spec.loader.path)
        return spec


class _ReaderLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        name = "create_import_structure_from_path"
        read = getattr(getattr(module, name, None), "__wrapped__", None)
        if read is not None:
            setattr(module, name, functools.cache(read))
