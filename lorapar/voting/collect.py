"""Ask the teachers of a round, each only about the rows that still need its vote.

The round `first` asks each of its teachers about every row, which is what their agreement is measured on. The round
`rest` asks the other teachers one after another, and drops a row as soon as it is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lorapar.errors import BadInputError, LoraparError
from lorapar.progress import Progress, say_omissions
from lorapar.records import Example, Omission, Vote, read_json, read_records
from lorapar.voting.ballots import NOT_ASKED, Ballots, is_voted_on
from lorapar.voting.journal import VoteJournal
from lorapar.voting.teacher_pool import TeacherFailedError, TeacherPool

SEGMENT_ROWS = 8192
"""Rows in memory at once."""

_MOST_SILENT = 20
"""A teacher that has answered none of so many rows, one after another, will answer none."""

EXAMPLES = "examples.jsonl"
VOTES = "votes.jsonl"
SUMMARY = "summary.json"
FAILED = "failed.json"
"""Names of the teachers that failed in an earlier round, with the reason; absent where none did."""


@dataclass
class Calls:
    """What a round cost."""

    calls: dict[str, int] = field(default_factory=dict)
    """Votes by teacher, as they were asked for."""
    cached: dict[str, int] = field(default_factory=dict)
    """Votes by teacher that an earlier run had asked for."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Tokens read and written by teacher, without cached votes."""
    thinking_tokens: int = 0
    """How many of them were thought before answers, as far as endpoints count them apart."""
    abstained: dict[str, int] = field(default_factory=dict)
    """Rows by teacher that it would not answer."""
    resumed: int = 0
    """Votes among them that an earlier, unfinished call had left."""

    def count(self, vote: Vote) -> None:
        """Add one vote."""
        book = self.abstained if vote.label is None else self.cached if vote.cached else self.calls
        book[vote.teacher] = book.get(vote.teacher, 0) + 1
        if not vote.cached:
            self.tokens[vote.teacher] = self.tokens.get(vote.teacher, 0) + vote.tokens
            self.thinking_tokens += vote.thinking_tokens or 0


def abstained(name: str, count: int, total: int) -> Omission:
    """What is said of the rows that a teacher would not answer."""
    return Omission(
        count=count,
        total=total,
        what=f"rows without the vote of teacher '{name}'",
        why="its endpoint would not answer them",
        remedy="the others decide; its line in the log of vote says why",
    )


class Collection:
    """One round of votes on the rows of a folder.

    The folder holds `examples.jsonl` and, where they are the open rows of an earlier round, that round's `votes.jsonl`.
    `names` are the teachers to ask where these are not all of the round.
    """

    def __init__(self, folder: Path, ballots: Ballots, round_name: str, names: Sequence[str] | None = None) -> None:
        self._examples = folder / EXAMPLES
        self._ballots = ballots
        self._all_rows = round_name == "first"
        self._names = ballots.round_teachers(round_name) if names is None else tuple(names)
        self._recalled: dict[str, set[str]] = {name: set() for name in self._names}
        self.patterns = {row.id: ballots.nobody for row in self._voted_on()}
        self.failed: dict[str, str] = read_json(folder / FAILED) if (folder / FAILED).exists() else {}
        """Why each teacher that failed did, earlier rounds included."""
        if (folder / VOTES).exists():
            for vote in read_records(folder / VOTES, Vote):
                self._note(vote)
        self._excuse(list(self.failed))

    def ask(self, pool: TeacherPool, journal: VoteJournal, progress: Progress) -> Calls:
        """Ask every teacher of the round; all votes of the round are in the journal afterwards.

        A teacher that fails is left out where the settings allow it, and said in one line. Raises its error where they
        do not: what had been voted stays in the journal.
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
        # Abstentions go into the journal once the teacher is done: where it fails, the next call asks again.
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
        if self._all_rows:  # of the few open rows of a later round, all may well be of the kind that is refused
            self._refuse_silent(silent, done)
        for vote in silent:
            journal.append(vote)
            done.count(vote)
        say_omissions(progress, [abstained(silent[0].teacher, len(silent), waiting)])
        progress.say(f"the last of them: {silent[-1].raw}")

    def _refuse_silent(self, silent: Sequence[Vote], done: Calls) -> None:
        """Raise TeacherFailedError for a teacher that has said nothing yet but that it will not answer."""
        name = silent[0].teacher
        if not done.calls.get(name) and not done.cached.get(name):
            raise TeacherFailedError(
                BadInputError(f"{silent[-1].raw}; all {len(silent)} rows that it was asked about went like this")
            )

    def _take(self, vote: Vote, journal: VoteJournal, progress: Progress, done: Calls) -> None:
        self._note(vote)
        journal.append(vote)
        done.count(vote)
        progress.advance()

    def _go_on_without(self, name: str, error: LoraparError, progress: Progress, done: Calls) -> None:
        """Leave a failed teacher out, or raise its error anew with what is safe."""
        safe = sum(done.calls.values()) + sum(done.cached.values())
        if len(self.failed) >= self._ballots.may_fail:
            raise type(error)(
                f"{error}; {safe} votes of this round are safe, the same command asks for the rest"
            ) from error
        self.failed[name] = str(error)
        self._excuse([name])
        progress.say(f"{error}; going on without it, as voting.min_teachers allows ({safe} votes so far)")

    def _excuse(self, names: Sequence[str]) -> None:
        if names:
            self.patterns = {row: self._ballots.mark_absent(seen, names) for row, seen in self.patterns.items()}

    def _waiting(self, place: int) -> int:
        return sum(pattern[place] == NOT_ASKED and self._asks(pattern, place) for pattern in self.patterns.values())

    def _segments(self, place: int, name: str) -> Iterator[list[Example]]:
        """The rows a teacher is asked about, voted on already or not; those of earlier runs are no part of them.

        A row's probabilities depend, in their last bits, on the rows it is read with: a call after a stop has to cut
        the same segments as one that was never stopped.
        """
        recalled = self._recalled[name]
        rows = (row for row in self._voted_on() if row.id not in recalled and self._asks(self.patterns[row.id], place))
        while segment := list(islice(rows, SEGMENT_ROWS)):
            yield segment

    def _voted(self, segment: Sequence[Example], place: int) -> set[str]:
        return {row.id for row in segment if self.patterns[row.id][place] != NOT_ASKED}

    def _asks(self, pattern: str, place: int) -> bool:
        """Whether a teacher is asked about a row in this round, voted on it already or not."""
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
        return (row for row in read_records(self._examples, Example) if is_voted_on(row))
