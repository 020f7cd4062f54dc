"""lorapar: fine-tune language models the LoRA-PAR way, from a laptop to a Kubeflow cluster.

For programs: `run`, `load_config` and `Registry` (docs/python.md). Importing this package imports nothing else; each
name is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorapar.api import Registry, RunResult, run
    from lorapar.config import RunConfig, load_config
    from lorapar.errors import ExitCode, LoraparError

__version__ = "0.1.0"
__all__ = ["ExitCode", "LoraparError", "Registry", "RunConfig", "RunResult", "__version__", "load_config", "run"]

_HOME = {
    **dict.fromkeys(("Registry", "RunResult", "run"), "lorapar.api"),
    **dict.fromkeys(("RunConfig", "load_config"), "lorapar.config"),
    **dict.fromkeys(("ExitCode", "LoraparError"), "lorapar.errors"),
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lorapar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
