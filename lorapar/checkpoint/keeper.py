"""When a stage saves its unfinished work."""

from __future__ import annotations

import time

from lorapar.config import CheckpointConfig


class Keeper:
    """Tells a stage when a checkpoint is due. What is in the scratch folder survives the process, not the machine.

    A stage calls `due` often (it costs nothing), brings its scratch folder up to date when it is, and calls `keep`.
    One whose scratch folder is always up to date calls `tick` instead.
    """

    def __init__(self, config: CheckpointConfig | None = None) -> None:
        """Keep to the settings; the defaults where there are none."""
        self.config = config or CheckpointConfig()
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last >= self.config.interval_seconds

    def keep(self) -> None:
        """The scratch folder is up to date and whole at this moment."""
        self._last = time.monotonic()

    def tick(self) -> None:
        """The scratch folder is up to date; keep it where that is due."""
        if self.due():
            self.keep()

    def settle(self) -> None:
        """Return once what was kept last is as safe as it gets."""

    def forget(self) -> None:
        """The stage has finished and its outputs are safe: unfinished work is of no use any more."""
