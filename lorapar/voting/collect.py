"""Ask the teachers of a round, each only about the rows that still need its vote.

The round `first` asks each of its teachers about every row; their agreement is measured on these votes. The round
`rest` asks the other teachers one after another, and drops a row as soon as it is decided. Votes go to disk as they
come (`VoteJournal`), so a killed stage asks again only for votes that it had not written.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lorapar.errors import BadInputError, LoraparError
from lorapar.progress import Progress, log_omissions
from lorapar.records import Example, Omission, Vote, read_json, read_records, recover_lines
from lorapar.store.file_system import sync
from lorapar.voting.ballots import NOT_ASKED, Ballots
from lorapar.voting.teacher_pool import TeacherFailedError, TeacherPool

FLUSH_VOTES = 256
FLUSH_SECONDS = 2.0
_CACHED = b',"cached":true}'
"""The end of a cached vote's line: the last field, which no text can hold unescaped."""
SEGMENT_ROWS = 8192
"""Rows in memory at once."""
_MOST_SILENT = 20
"""A teacher that has answered none of this many consecutive rows will answer none."""
EXAMPLES = "examples.jsonl"
VOTES = "votes.jsonl"
SUMMARY = "summary.json"
FAILED = "failed.json"
"""Names of the teachers that failed in an earlier round, with the reason; absent where none did."""


class VoteJournal:
    """An append-only file of votes, forced to disk every `flush_votes` votes or `flush_seconds` seconds.

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
        """Use the file `path`; `on_flush` is called whenever the file holds every vote so far."""
        self.path = path
        self._flush_votes = flush_votes
        self._flush_seconds = flush_seconds
        self._on_flush = on_flush
        self._file: BinaryIO | None = None
        self._waiting = 0
        self._flushed = time.monotonic()

    def recover(self) -> Iterator[Vote]:
        """The votes of an earlier call; truncates the file at the first incomplete or unreadable line."""
        return recover_lines(self.path, Vote.model_validate_json)

    def append(self, vote: Vote) -> None:
        """Write one vote; it is on disk after the next flush."""
        if self._file is None:
            raise RuntimeError("append outside of the journal's with block")
        self._file.write(vote.model_dump_json(exclude_none=True).encode() + b"\n")
        self._waiting += 1
        if self._waiting >= self._flush_votes or time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Force appended votes to disk."""
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

    The copy does not depend on the order in which votes came or on which were cached: equal votes give equal bytes.
    Memory: two whole numbers for each vote.
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


@dataclass
class Calls:
    """The votes and tokens of a round."""

    calls: dict[str, int] = field(default_factory=dict)
    """Votes by teacher."""
    cached: dict[str, int] = field(default_factory=dict)
    """Votes by teacher from an earlier run's cache."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Tokens read and written by teacher, without cached votes."""
    thinking_tokens: int = 0
    """How many of these tokens were reasoning before answers, where endpoints count them separately."""
    abstained: dict[str, int] = field(default_factory=dict)
    """Rows by teacher that it refused to answer."""
    resumed: int = 0
    """Votes from an earlier, unfinished call."""

    def count(self, vote: Vote) -> None:
        """Add one vote."""
        book = self.abstained if vote.label is None else self.cached if vote.cached else self.calls
        book[vote.teacher] = book.get(vote.teacher, 0) + 1
        if not vote.cached:
            self.tokens[vote.teacher] = self.tokens.get(vote.teacher, 0) + vote.tokens
            self.thinking_tokens += vote.thinking_tokens or 0


def abstained(name: str, count: int, total: int) -> Omission:
    """The note about rows that a teacher refused to answer."""
    return Omission(
        count=count,
        total=total,
        what=f"rows without the vote of teacher '{name}'",
        why="its endpoint would not answer them",
        remedy="the other teachers decide on them; the log of vote says why",
    )


class Collection:
    """One round of votes on the rows of a folder.

    The folder holds `examples.jsonl` and, for the open rows of an earlier round, that round's `votes.jsonl`. `names`
    are the teachers to ask, if not all of the round.
    """

    def __init__(self, folder: Path, ballots: Ballots, round_name: str, names: Sequence[str] | None = None) -> None:
        self._examples = folder / EXAMPLES
        self._ballots = ballots
        self._all_rows = round_name == "first"
        self._names = ballots.round_teachers(round_name) if names is None else tuple(names)
        self._recalled: dict[str, set[str]] = {name: set() for name in self._names}
        self.patterns = {row.id: ballots.nobody for row in self._voted_on()}
        self.failed: dict[str, str] = read_json(folder / FAILED) if (folder / FAILED).exists() else {}
        """The error of each teacher that failed, earlier rounds included."""
        if (folder / VOTES).exists():
            for vote in read_records(folder / VOTES, Vote):
                self._note(vote)
        self._excuse(list(self.failed))

    def ask(self, pool: TeacherPool, journal: VoteJournal, progress: Progress) -> Calls:
        """Ask every teacher of the round; all votes of the round are in the journal afterwards.

        A teacher that fails is left out where the settings allow it, and one line says so. Otherwise its error is
        raised; votes so far stay in the journal.
        """
        done = Calls()
        for vote in journal.recover():
            self._note(vote)
            done.count(vote)
            done.resumed += 1
        with journal:
            for name in self._names:
                try:
                    self._ask_one(name, pool, journal, progress, done)
                except TeacherFailedError as failure:
                    self._go_on_without(name, failure.error, progress, done)
        return done

    def _ask_one(self, name: str, pool: TeacherPool, journal: VoteJournal, progress: Progress, done: Calls) -> None:
        place = self._ballots.teachers.index(name)
        waiting = self._waiting(place)
        if not waiting:
            return
        progress.start(f"teacher {name}", waiting)
        # Abstentions go into the journal once the teacher is done: if it fails, the next call asks again.
        silent: list[Vote] = []
        for segment in self._segments(place, name) if pool.remembers else ():
            voted = self._voted(segment, place)
            for vote in pool.recall(name, [row for row in segment if row.id not in voted]):
                self._take(vote, journal, progress, done)
        if not self._waiting(place):
            return
        for segment in self._segments(place, name):
            voted = self._voted(segment, place)
            if len(voted) < len(segment):
                for vote in pool.votes(name, segment, voted):
                    if vote.label is None:
                        self._pass_over(vote, silent, progress, done)
                    else:
                        self._take(vote, journal, progress, done)
        if silent:
            self._end_silent(silent, waiting, journal, progress, done)

    def _pass_over(self, vote: Vote, silent: list[Vote], progress: Progress, done: Calls) -> None:
        self._note(vote)
        silent.append(vote)
        progress.advance()
        if len(silent) == _MOST_SILENT:
            self._refuse_silent(silent, done)

    def _end_silent(
        self, silent: Sequence[Vote], waiting: int, journal: VoteJournal, progress: Progress, done: Calls
    ) -> None:
        if self._all_rows:  # a later round has few open rows, and all may be of a kind that is refused
            self._refuse_silent(silent, done)
        for vote in silent:
            journal.append(vote)
            done.count(vote)
        log_omissions(progress, [abstained(silent[0].teacher, len(silent), waiting)])
        progress.log(f"the last of them: {silent[-1].raw}")

    def _refuse_silent(self, silent: Sequence[Vote], done: Calls) -> None:
        """Raise TeacherFailedError for a teacher that has only refused so far."""
        name = silent[0].teacher
        if not done.calls.get(name) and not done.cached.get(name):
            raise TeacherFailedError(
                BadInputError(f"{silent[-1].raw}; all {len(silent)} rows that it was asked about failed like this")
            )

    def _take(self, vote: Vote, journal: VoteJournal, progress: Progress, done: Calls) -> None:
        self._note(vote)
        journal.append(vote)
        done.count(vote)
        progress.advance()

    def _go_on_without(self, name: str, error: LoraparError, progress: Progress, done: Calls) -> None:
        """Leave a failed teacher out, or raise its error again with the number of saved votes."""
        safe = sum(done.calls.values()) + sum(done.cached.values())
        if len(self.failed) >= self._ballots.may_fail:
            raise type(error)(
                f"{error}; {safe} votes of this round are safe, the same command asks for the rest"
            ) from error
        self.failed[name] = str(error)
        self._excuse([name])
        progress.log(f"{error}; going on without it, as voting.min_teachers allows ({safe} votes so far)")

    def _excuse(self, names: Sequence[str]) -> None:
        if names:
            self.patterns = {row: self._ballots.mark_absent(seen, names) for row, seen in self.patterns.items()}

    def _waiting(self, place: int) -> int:
        return sum(pattern[place] == NOT_ASKED and self._asks(pattern, place) for pattern in self.patterns.values())

    def _segments(self, place: int, name: str) -> Iterator[list[Example]]:
        """The rows a teacher is asked about, voted on already or not, without cached rows of earlier runs.

        A row's probabilities depend, in their last bits, on the rows in its batch. So a call after a stop must cut the
        same segments as an uninterrupted one.
        """
        recalled = self._recalled[name]
        rows = (row for row in self._voted_on() if row.id not in recalled and self._asks(self.patterns[row.id], place))
        while segment := list(islice(rows, SEGMENT_ROWS)):
            yield segment

    def _voted(self, segment: Sequence[Example], place: int) -> set[str]:
        return {row.id for row in segment if self.patterns[row.id][place] != NOT_ASKED}

    def _asks(self, pattern: str, place: int) -> bool:
        """Whether a teacher is asked about a row in this round, whether or not it has voted on it already."""
        before = pattern[:place] + NOT_ASKED + pattern[place + 1 :]
        return self._all_rows or not self._ballots.outcome(before).decided

    def _note(self, vote: Vote) -> None:
        pattern = self.patterns.get(vote.example_id)
        if pattern is None:
            raise BadInputError(
                f"a vote of teacher '{vote.teacher}' is on row {vote.example_id}, which is not among the rows to vote "
                f"on in {self._examples}; the votes belong to other data, run the vote stage again"
            )
        self.patterns[vote.example_id] = self._ballots.add(pattern, vote.example_id, vote.teacher, vote.label)
        if vote.cached and vote.teacher in self._recalled:
            self._recalled[vote.teacher].add(vote.example_id)

    def _voted_on(self) -> Iterator[Example]:
        return (
            row
            for row in read_records(self._examples, Example)
            if self._ballots.given.asks(row.split, row.known_system)
        )
