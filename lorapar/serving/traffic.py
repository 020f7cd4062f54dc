"""Counts of the requests that each version is answering: a version is unloaded only without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """Counts of running requests by model name; used from one event loop."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    @contextmanager
    def through(self, model: str) -> Iterator[None]:
        """Count a request for as long as the block runs."""
        self._running[model] += 1
        try:
            yield
        finally:
            self._running[model] -= 1
            if not self._running[model]:
                del self._running[model]

    def idle(self, model: str) -> bool:
        """Whether the model has no running request."""
        return not self._running[model]
