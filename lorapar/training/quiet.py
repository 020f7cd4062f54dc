"""Our own progress instead of the training libraries' bars and tables, without losing what they warn about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

import datasets
from transformers.utils import logging as transformers_logging

from lorapar.progress import Progress

LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets")
# Addressed to those who call a library, which for these calls is TRL, and not to those who use it.
_FOR_DEVELOPERS = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
# Each of these we say ourselves, counted, and not with a whole completion every time.
_REPORTED_ELSEWHERE = ("All reward functions returned None",)
# PEFT compares the name `ref` that TRL gives its copy with the word "prefix"; the copy is never saved.
_UNHELPFUL = ("should not be contained in the prefix",)


@contextmanager
def quiet_libraries(progress: Progress) -> Iterator[None]:
    """No bars and no log lines of the libraries while the block lasts; each warning is said once, as one line."""
    forwarder = _Forwarder(progress)
    with ExitStack() as stack:
        stack.enter_context(_no_bars())
        for library in LIBRARIES:
            stack.enter_context(_only_handler(logging.getLogger(library), forwarder))
        stack.enter_context(warnings.catch_warnings())
        for category in _FOR_DEVELOPERS:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = forwarder.show_warning
        yield


class _Forwarder(logging.Handler):
    """Hands warnings and errors of the libraries on to our progress, each text once."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(level=logging.WARNING)
        self._progress = progress
        self._logged: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record of a library's logger."""
        text = record.getMessage()
        if not any(part in text for part in _REPORTED_ELSEWHERE):
            self._log_once(record.name.partition(".")[0], text)

    def show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Log a Python warning; takes the place of `warnings.showwarning`."""
        if not any(part in str(message) for part in _UNHELPFUL):
            self._log_once(category.__name__, str(message))

    def _log_once(self, source: str, text: str) -> None:
        line = f"{source}: {' '.join(text.split())}"
        if line not in self._logged:
            self._logged.add(line)
            self._progress.log(line)


@contextmanager
def _only_handler(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    before, propagate = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagate


@contextmanager
def _no_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown[0]:
            transformers_logging.enable_progress_bar()
        if shown[1]:
            datasets.enable_progress_bars()
