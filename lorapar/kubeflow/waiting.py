"""Print on standard error, while a command waits, what has not answered yet and for how long.

Without it, a server that never answers or a network that drops packets would mean minutes of silence.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType

FIRST_SECONDS = 10.0
EVERY_SECONDS = 30.0


class Waiting:
    """`with Waiting(WHOM):` around a call that may hang: a line after 10 s, then one every 30 s.

    `what` is the line's text: a store that is read object by object may be slow although it answers.
    """

    def __init__(self, whom: str, at_most_seconds: float | None = None, what: str = "no answer for") -> None:
        self._whom, self._what = whom, what
        self._limit = f"; given up after {at_most_seconds:.0f} s" if at_most_seconds is not None else ""

    def __enter__(self) -> Waiting:
        self._began, self._over = time.monotonic(), threading.Event()
        self.speaker = threading.Thread(target=self._print_waiting, args=(self._began, self._over), daemon=True)
        self.speaker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def _print_waiting(self, began: float, over: threading.Event) -> None:
        pause = FIRST_SECONDS
        while not over.wait(pause):
            pause = EVERY_SECONDS
            seconds = time.monotonic() - began
            with suppress(OSError, ValueError):  # the reader of standard error may have gone
                sys.stderr.write(f"lorapar: {self._whom}: {self._what} {seconds:.0f} s{self._limit}\n")
                sys.stderr.flush()
