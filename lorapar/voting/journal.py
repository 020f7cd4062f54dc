"""Votes on disk as they come, so that a stage that is killed asks again only for what it had not yet written."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lorapar.records import Vote, recover_lines
from lorapar.store.file_system import sync

FLUSH_VOTES = 256
FLUSH_SECONDS = 2.0


class VoteJournal:
    """An append-only file of votes; every `flush_votes` votes or `flush_seconds` seconds it is forced to the disk.

    Read it with `recover` before entering it as a context manager for appending.
    """

    def __init__(
        self,
        path: Path,
        *,
        flush_votes: int = FLUSH_VOTES,
        flush_seconds: float = FLUSH_SECONDS,
        on_flush: Callable[[], None] = lambda: None,
    ) -> None:
        """Of the file `path`; `on_flush` is called whenever the file holds every vote so far."""
        self.path = path
        self._flush_votes = flush_votes
        self._flush_seconds = flush_seconds
        self._on_flush = on_flush
        self._file: BinaryIO | None = None
        self._waiting = 0
        self._flushed = time.monotonic()

    def recover(self) -> Iterator[Vote]:
        """The votes an earlier call left; from the first torn or unreadable line on, the file is cut off."""
        return recover_lines(self.path, Vote.model_validate_json)

    def append(self, vote: Vote) -> None:
        """Write one vote; it is safe after the next flush."""
        if self._file is None:
            raise RuntimeError("append outside of the journal's with block")
        self._file.write(vote.model_dump_json(exclude_none=True).encode() + b"\n")
        self._waiting += 1
        if self._waiting >= self._flush_votes or time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Force what was appended to the disk."""
        if self._file is not None:
            sync(self._file)
            self._on_flush()
        self._waiting = 0
        self._flushed = time.monotonic()

    def __enter__(self) -> VoteJournal:
        self._file = self.path.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def copy_in_order(journal: Path, target: Path, teachers: Sequence[str], rows: Iterable[str]) -> int:
    """Copy a journal's votes ordered by teacher and row, and return the tokens they took.

    The order in which votes came, and which of them an earlier run had asked for, are left out: equal votes, equal
    bytes. Memory: two whole numbers a vote.
    """
    import numpy as np

    row_of = {row: place for place, row in enumerate(rows)}
    first_of = {name: place * len(row_of) for place, name in enumerate(teachers)}
    order, starts, tokens, start = array("q"), array("q"), 0, 0
    with journal.open("rb") as source, target.open("wb") as made:
        for line in source:
            vote = json.loads(line)
            order.append(first_of[vote["teacher"]] + row_of[vote["example_id"]])
            starts.append(start)
            start += len(line)
            tokens += vote["tokens"]
        for place in np.argsort(np.asarray(order, dtype=np.int64), kind="stable"):
            source.seek(starts[int(place)])
            made.write(source.readline().replace(_CACHED, b"}"))
    return tokens


_CACHED = b',"cached":true}'
"""How a vote's line ends that an earlier run had asked for: the last field, and no text can hold it unescaped."""
