"""Ask the teachers of a round, each only about the rows that still need its vote.

The round `first` asks each of its teachers about every row, which is what their agreement is measured on. The round
`rest` asks the other teachers one after another, and drops a row as soon as it is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.records import Example, Vote, read_records
from lorapar.voting.ballots import NOT_ASKED, Ballots, is_voted_on
from lorapar.voting.journal import VoteJournal
from lorapar.voting.teacher import Teacher

SEGMENT_ROWS = 8192
"""Rows in memory at once."""

EXAMPLES = "examples.jsonl"
VOTES = "votes.jsonl"


@dataclass
class Calls:
    """What a round cost."""

    calls: dict[str, int] = field(default_factory=dict)
    """Votes by teacher."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Tokens read and written by teacher."""
    resumed: int = 0
    """Votes among them that an earlier, unfinished call had left."""

    def count(self, vote: Vote) -> None:
        """Add one vote."""
        self.calls[vote.teacher] = self.calls.get(vote.teacher, 0) + 1
        self.tokens[vote.teacher] = self.tokens.get(vote.teacher, 0) + vote.tokens


class Collection:
    """One round of votes on the rows of a folder.

    The folder holds `examples.jsonl` and, where they are the open rows of an earlier round, that round's `votes.jsonl`.
    """

    def __init__(self, folder: Path, ballots: Ballots, round_name: str) -> None:
        self._examples = folder / EXAMPLES
        self._ballots = ballots
        self._all_rows = round_name == "first"
        self._names = ballots.round_teachers(round_name)
        self.patterns = {row.id: ballots.nobody for row in self._voted_on()}
        if (folder / VOTES).exists():
            for vote in read_records(folder / VOTES, Vote):
                self._note(vote)

    def ask(self, open_teacher: Callable[[str], Teacher], journal: VoteJournal, progress: Progress) -> Calls:
        """Ask every teacher of the round; all votes of the round are in the journal afterwards.

        `open_teacher` makes a teacher from its name; it is called only for teachers that have rows to vote on.
        """
        done = Calls()
        for vote in journal.recover():
            self._note(vote)
            done.count(vote)
            done.resumed += 1
        with journal:
            for name in self._names:
                self._ask_one(name, open_teacher, journal, progress, done)
        return done

    def _ask_one(
        self,
        name: str,
        open_teacher: Callable[[str], Teacher],
        journal: VoteJournal,
        progress: Progress,
        done: Calls,
    ) -> None:
        place = self._ballots.teachers.index(name)
        waiting = sum(pattern[place] == NOT_ASKED and self._asks(pattern, place) for pattern in self.patterns.values())
        if not waiting:
            return
        teacher = open_teacher(name)
        progress.start(f"teacher {name}", waiting)
        rows = (row for row in self._voted_on() if self._asks(self.patterns[row.id], place))
        while segment := list(islice(rows, SEGMENT_ROWS)):
            voted = {row.id for row in segment if self.patterns[row.id][place] != NOT_ASKED}
            if len(voted) == len(segment):
                continue
            for vote in teacher.votes(segment, voted):
                self._note(vote)
                journal.append(vote)
                done.count(vote)
                progress.advance()

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
        self.patterns[vote.example_id] = self._ballots.add(pattern, vote)

    def _voted_on(self) -> Iterator[Example]:
        return (row for row in read_records(self._examples, Example) if is_voted_on(row))
