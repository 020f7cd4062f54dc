"""Silence lm-eval for a while: lorapar says itself what goes on."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silent() -> Iterator[None]:
    """No bars and no log lines below an error of the modules of lm-eval that are loaded when this is entered."""
    import datasets
    import lm_eval.evaluator  # noqa: F401 - loads what draws bars

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    drawing = [(module, module.tqdm) for name, module in sys.modules.copy().items() if _draws_bars(name, module)]
    logger.setLevel(logging.ERROR)
    for module, bar in drawing:
        module.tqdm = _hidden(bar)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        logger.setLevel(level)
        for module, bar in drawing:
            module.tqdm = bar  # type: ignore[attr-defined]


def _draws_bars(name: str, module: object) -> bool:
    return name.startswith("lm_eval.") and hasattr(module, "tqdm")


def _hidden(bar: Callable[..., Any]) -> Callable[..., Any]:
    """The same bar, never drawn whatever its maker asks for."""

    def make(*arguments: Any, **options: Any) -> Any:
        return bar(*arguments, **{**options, "disable": True})

    return make
