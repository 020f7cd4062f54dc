"""The thread that writes what was captured: it may be late or fail, and no request waits for it.

What is offered waits in memory, at most so much of it; what finds no room is dropped and counted. The thread makes
rows of it (which redacts them), keeps those until the next write, and tries again where the store does not take them.
"""

from __future__ import annotations

import logging
import sys
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
MOST_KEPT_BYTES = 64 << 20
"""Rows, and bytes of their texts, that are kept for a store that does not take them; the oldest are lost first."""
FULL_PART = 2_000
FULL_PART_BYTES = 16 << 20
"""Rows, or bytes of their texts, that are written at once, without waiting for their time, and most of one part."""
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
        self._rows: deque[tuple[Kept, int]] = deque()
        """With the bytes that each takes; of the thread alone, as is all below."""
        self._rows_bytes = 0
        self._lost = 0
        """Rows that were lost since the last write."""
        self._failed = False
        self._unseen: list[tuple[str, frozenset[str]]] = []
        """Parts just written, with the digests of their requests, which may have been deleted meanwhile."""
        self._changed = threading.Condition()
        self._closing = False
        self._described = False
        self._pruned: float | None = None
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="lorapar-capture", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def offer(self, item: Item, size_bytes: int) -> bool:
        """Take an item, or drop it where too much waits; never blocks for longer than another thread's `popleft`."""
        with self._changed:
            full = self._closing or len(self._waiting) >= MOST_WAITING
            full = full or self._waiting_bytes + size_bytes > MOST_WAITING_BYTES
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
        if self._thread.is_alive():
            rows = len(self._rows) + len(self._waiting)
            logger.warning(
                "capture: %d requests are lost: %s did not take them within %g s", rows, self._capture.where, seconds
            )

    def _run(self) -> None:
        due = time.monotonic()  # at once: retention does not wait for a first request
        while True:
            item, closing = self._next(due)
            if item is not None:
                self._take(item)
            if closing or time.monotonic() >= due or self._full():
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
            self._warn_once(f"a request is not kept: {_safe(error)}")
            return
        if row is not None:
            self._rows.append((row, size_in_memory(row)))
            self._rows_bytes += self._rows[-1][1]
        while len(self._rows) > MOST_KEPT or self._rows_bytes > MOST_KEPT_BYTES:
            self._lose()

    def _lose(self) -> None:
        """Let go of the oldest row; told once until the store takes rows again."""
        _, size_bytes = self._rows.popleft()
        self._rows_bytes -= size_bytes
        self._count("lost", 1)
        if not self._lost:
            logger.warning(
                "capture: the oldest requests are lost from now on: more than %d, or %d MiB, wait for %s; the metric "
                "lorapar_serving_captured_total counts them as lost",
                *(MOST_KEPT, MOST_KEPT_BYTES >> 20, self._capture.where),
            )
        self._lost += 1

    def _full(self) -> bool:
        """Whether there is enough for a part; where the last try failed, the next one waits for its time."""
        return not self._failed and (len(self._rows) >= FULL_PART or self._rows_bytes >= FULL_PART_BYTES)

    def _flush(self) -> None:
        """Write the rows and see to retention; on failure they stay for the next time."""
        try:
            if not self._described:
                self._capture.describe(self._config)
                self._described = True
            self._write()
            self._works_again()
        except Exception as error:  # whatever it is, the thread lives on and tries again
            self._failed = True
            self._count("write_failures", 1)
            self._warn_once(f"nothing is written to {self._capture.where} for now: {_safe(error)}")
        if self._closing and self._rows:
            self._count("lost", len(self._rows))
            logger.warning("capture: %d requests are lost, since the server ends", len(self._rows))
        if self._pruned is None or time.monotonic() - self._pruned >= _RETENTION_SECONDS:
            self._prune()

    def _works_again(self) -> None:
        if self._failed:
            logger.warning("capture: %s takes requests again; %d were lost", self._capture.where, self._lost)
        self._failed, self._lost = False, 0
        self._warned.clear()

    def _write(self) -> None:
        if self._rows:
            deleted = self._capture.deleted()
            self._keep([row for row, _ in self._rows if request_digest(row.request_id) not in deleted])
        # A part at a time, so that a store which fails in between gets no row twice.
        while self._rows:
            part = self._next_part()
            written = self._write_part(part)
            if written:
                self._count("kept" if isinstance(part[0], CapturedRequest) else "feedback", written)
            taken = {id(row) for row in part}
            self._keep([row for row, _ in self._rows if id(row) not in taken])
        self._look_again()

    def _look_again(self) -> None:
        """Take out of the parts just written what was deleted meanwhile.

        A deletion names the request first and then looks for it in the parts that are there: a part that was not
        there yet is looked into here, or at the next try where the store fails now.
        """
        deleted = self._capture.deleted() if self._unseen else frozenset()
        while self._unseen:
            key, digests = self._unseen[-1]
            if digests & deleted:
                self._capture.take_out(key, digests & deleted)
            self._unseen.pop()

    def _next_part(self) -> list[Kept]:
        """The oldest rows of one kind and day, as many as one part takes."""
        kind, day = type(self._rows[0][0]), self._rows[0][0].day
        found: list[Kept] = []
        size_bytes = 0
        for row, size in self._rows:
            if type(row) is kind and row.day == day:
                if found and size_bytes + size > FULL_PART_BYTES:
                    break
                found.append(row)
                size_bytes += size
            if len(found) == FULL_PART:
                break
        return found

    def _keep(self, rows: list[Kept]) -> None:
        """Of the rows, let those stay."""
        sizes = {id(row): size for row, size in self._rows}
        self._rows = deque((row, sizes[id(row)]) for row in rows)
        self._rows_bytes = sum(size for _, size in self._rows)

    def _write_part(self, rows: list[Any]) -> int:
        """Write rows of one kind and day; how many. A row that no file takes is left out, counted and told."""
        try:
            self._put(rows)
        except (LoraparError, OSError):
            raise
        except Exception as error:
            sound = [row for row in rows if _fits_a_file(row)]
            if len(sound) == len(rows):
                raise
            if sound:
                self._put(sound)
            self._count("failed", len(rows) - len(sound))
            self._warn_once(f"a request is not kept, since it cannot be written: {_safe(error)}")
            return len(sound)
        return len(rows)

    def _put(self, rows: list[Any]) -> None:
        digests = frozenset(request_digest(row.request_id) for row in rows)
        self._unseen += [(key, digests) for key in self._capture.write(rows, self._now())]

    def _prune(self) -> None:
        self._pruned = time.monotonic()
        try:
            self._capture.expire(self._config.retention_days, self._now())
        except Exception as error:
            self._count("prune_failures", 1)
            self._warn_once(f"retention is not kept at {self._capture.where}: {_safe(error)}")

    def _warn_once(self, message: str) -> None:
        if message not in self._warned and len(self._warned) < 100:
            self._warned.add(message)
            logger.warning("capture: %s", message)


def size_in_memory(row: Kept) -> int:
    """Bytes that the texts of a row take, and about as many as everything else of it does."""
    texts = [one.content for one in row.messages] if isinstance(row, CapturedRequest) else []
    return 2_000 + sum(200 + sys.getsizeof(text) for text in [*texts, row.answer or ""])


def _fits_a_file(row: Any) -> bool:
    try:
        to_parquet([row])
    except Exception:  # whatever it is, this row is the cause
        return False
    return True


def _safe(error: Exception) -> str:
    """What may be told of an error; of a foreign one only its kind, since its text may hold what a request said."""
    return str(error) if isinstance(error, LoraparError | OSError | SlowRuleError) else type(error).__name__
