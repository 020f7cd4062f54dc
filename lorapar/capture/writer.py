"""The thread that writes what was captured: it may be late or fail, and no request waits for it.

What is offered waits in memory, at most so much of it; what finds no room is dropped and counted. The thread makes
rows of it (which redacts them), keeps those until the next write, and tries again where the store does not take them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from lorapar.capture.parts import Capture
from lorapar.capture.records import CapturedRequest, Feedback, request_digest, to_parquet
from lorapar.capture.rules import SlowRuleError
from lorapar.config.capture import CaptureConfig
from lorapar.errors import LoraparError

MOST_WAITING = 2_000
MOST_WAITING_BYTES = 64 << 20
MOST_KEPT = 20_000
"""Rows that are kept for a store that does not take them; the oldest are lost first."""
_FULL_PART = 2_000
"""Rows that are written at once, without waiting for their time."""
_RETENTION_SECONDS = 3600.0
CLOSING_SECONDS = 15.0

Item = TypeVar("Item")
Kept = CapturedRequest | Feedback
logger = logging.getLogger(f"vllm.{__name__}")


class CaptureWriter(Generic[Item]):
    """Turns items into rows by `make` and writes them to a capture.

    `make` gives None for an item that is not kept, and counts it itself. `count` is told outcomes and how many:
    `kept` once written, `queue_full`, `failed` (make has a bug or a rule is slow), `lost` for rows that the store did
    not take in time, `write_failures` and `prune_failures` once for each try.
    """

    def __init__(
        self,
        capture: Capture,
        config: CaptureConfig,
        make: Callable[[Item], Kept | None],
        count: Callable[[str, int], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._capture, self._config, self._make, self._count, self._now = capture, config, make, count, now
        self._waiting: deque[tuple[Item, int]] = deque()
        self._waiting_bytes = 0
        self._rows: list[Kept] = []
        self._changed = threading.Condition()
        self._closing = False
        self._described = False
        self._pruned: float | None = None
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="lorapar-capture", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def offer(self, item: Item, size_bytes: int) -> bool:
        """Take an item, or drop it where too much waits; never blocks for longer than another thread's `popleft`."""
        with self._changed:
            full = len(self._waiting) >= MOST_WAITING or self._waiting_bytes + size_bytes > MOST_WAITING_BYTES
            if not full:
                self._waiting.append((item, size_bytes))
                self._waiting_bytes += size_bytes
                self._changed.notify()
        if full:
            self._count("queue_full", 1)
        return not full

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Write what is there and end; what takes longer than that is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        due = time.monotonic()  # at once: retention does not wait for a first request
        while True:
            item, closing = self._next(due)
            if item is not None:
                self._take(item)
            if closing or time.monotonic() >= due or len(self._rows) >= _FULL_PART:
                self._flush()
                due = time.monotonic() + self._config.flush_seconds
            if closing:
                return

    def _next(self, due: float) -> tuple[Item | None, bool]:
        """An item, or None when it is time to write or to end; and whether it is the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                left = due - time.monotonic()
                if left <= 0:
                    return None, False
                self._changed.wait(left)
            if not self._waiting:
                return None, True
            item, size_bytes = self._waiting.popleft()
            self._waiting_bytes -= size_bytes
            return item, False

    def _take(self, item: Item) -> None:
        try:
            row = self._make(item)
        except Exception as error:  # whatever is wrong with one request, the others are kept
            self._count("failed", 1)
            self._tell(f"a request is not kept: {_safe(error)}")
            return
        if row is not None:
            self._rows.append(row)

    def _flush(self) -> None:
        """Write the rows and see to retention; on failure they stay for the next time."""
        try:
            if not self._described:
                self._capture.describe(self._config)
                self._described = True
            self._write()
        except Exception as error:  # whatever it is, the thread lives on and tries again
            self._count("write_failures", 1)
            self._tell(f"nothing is written to {self._capture.where} for now: {_safe(error)}")
        if (over := len(self._rows) - MOST_KEPT) > 0:
            del self._rows[:over]
            self._count("lost", over)
        if self._closing and self._rows:
            self._count("lost", len(self._rows))
        if self._pruned is None or time.monotonic() - self._pruned >= _RETENTION_SECONDS:
            self._prune()

    def _write(self) -> None:
        if not self._rows:
            return
        deleted = self._capture.deleted()
        self._rows = [row for row in self._rows if request_digest(row.request_id) not in deleted]
        # A part at a time, so that a store which fails in between gets no row twice.
        for kind, day in sorted({(type(row), row.day) for row in self._rows}, key=str):
            part = [row for row in self._rows if type(row) is kind and row.day == day]
            written = self._write_part(part)
            if written:
                self._count("kept" if kind is CapturedRequest else "feedback", written)
            taken = {id(row) for row in part}
            self._rows = [row for row in self._rows if id(row) not in taken]
        self._told.clear()

    def _write_part(self, rows: list[Any]) -> int:
        """Write rows of one kind and day; how many. A row that no file takes is left out, counted and told."""
        try:
            self._capture.write(rows, self._now())
        except (LoraparError, OSError):
            raise
        except Exception as error:
            sound = [row for row in rows if _fits_a_file(row)]
            if len(sound) == len(rows):
                raise
            if sound:
                self._capture.write(sound, self._now())
            self._count("failed", len(rows) - len(sound))
            self._tell(f"a request is not kept, since it cannot be written: {_safe(error)}")
            return len(sound)
        return len(rows)

    def _prune(self) -> None:
        self._pruned = time.monotonic()
        try:
            self._capture.prune(self._config.retention_days, self._now())
        except Exception as error:
            self._count("prune_failures", 1)
            self._tell(f"retention is not kept at {self._capture.where}: {_safe(error)}")

    def _tell(self, message: str) -> None:
        if message not in self._told and len(self._told) < 100:
            self._told.add(message)
            logger.warning("capture: %s", message)


def _fits_a_file(row: Any) -> bool:
    try:
        to_parquet([row])
    except Exception:  # whatever it is, this row is the cause
        return False
    return True


def _safe(error: Exception) -> str:
    """What may be told of an error; of a foreign one only its kind, since its text may hold what a request said."""
    return str(error) if isinstance(error, LoraparError | OSError | SlowRuleError) else type(error).__name__
