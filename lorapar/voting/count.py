"""Count the votes on every row: one pass over the examples, one over the votes, a few bytes a row.

A row's votes are a pattern (`lorapar.voting.ballots`) and rows share pattern strings, so a million rows take about as
much memory as their ids.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from lorapar.errors import BadInputError
from lorapar.records import System, read_parts
from lorapar.voting.ballots import NO_VOTE, NOT_ASKED, Ballots
from lorapar.voting.edits import Edit

SHOWN_ROWS = 20
"""Rows of each label, and contested rows, that a summary names."""


class _ExampleParts(TypedDict):
    """What is counted of an example."""

    id: str
    known_system: NotRequired[System | None]
    split: NotRequired[Literal["train", "heldout"]]


class _VoteParts(TypedDict):
    """What is counted of a vote."""

    example_id: str
    teacher: str
    label: NotRequired[System | None]
    confidence: NotRequired[float | None]
    tokens: NotRequired[int]
    uncalibrated: NotRequired[System | None]


_EXAMPLE: TypeAdapter[_ExampleParts] = TypeAdapter(_ExampleParts)
_VOTE: TypeAdapter[_VoteParts] = TypeAdapter(_VoteParts)


class Count:
    """The votes on all rows that teachers are asked about. Rows are numbered in the order of the examples."""

    def __init__(self, ballots: Ballots) -> None:
        self.ballots = ballots
        self.row_of: dict[str, int] = {}
        self.patterns: list[str] = []
        self.plain_patterns: list[str] | None = None
        """Patterns before teachers' biases were subtracted; None where votes are not calibrated."""
        self.gold: list[System | None] = []
        """The known system of each row, where the data names it."""
        self.heldout = bytearray()
        """1 where the row is held out for evaluation."""
        self.rows_of_examples = array("q")
        """The row of each example; of held-out ones that are known to be of the first system -1, the second -2, ..."""
        self.lean = array("d")
        """Confidence for the first system less confidence for others, summed over a row's votes."""
        self.rows_of_votes = array("q")
        """The row of each vote, in the order the votes were read."""
        self.edits: dict[int, Edit] = {}
        """What a person has set for a row, whatever its votes say."""
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.abstained: Counter[str] = Counter()
        """Rows that each teacher was asked about and would not answer."""
        self.known_heldout: Counter[str] = Counter()
        """Held-out rows that nobody is asked about, by the system the data names."""

    def read_examples(self, path: Path) -> None:
        """Number the rows; raises BadInputError for an id that is there twice."""
        nobody, row_of, number = self.ballots.nobody, self.row_of, 0
        for example in read_parts(path, _EXAMPLE, "Example"):
            known, heldout = example.get("known_system"), example.get("split", "train") == "heldout"
            if heldout and known is not None:
                self.known_heldout[known] += 1
                self.rows_of_examples.append(-1 - self.ballots.systems.index(known))
                continue
            if row_of.setdefault(example["id"], number) != number:
                raise BadInputError(f"{path}: the id {example['id']} is there twice; ids must differ")
            self.rows_of_examples.append(number)
            self.gold.append(known)
            self.heldout.append(heldout)
            number += 1
        self.patterns = [nobody] * number
        self.lean = array("d", bytes(8 * number))

    def read_votes(self, paths: Iterable[Path]) -> None:
        """Add all votes; raises BadInputError for unknown rows and teachers and for second votes."""
        for path in paths:
            for vote in read_parts(path, _VOTE, "Vote"):
                row = self.row_of.get(vote["example_id"])
                if row is None:
                    raise BadInputError(
                        f"{path}: a vote of teacher '{vote['teacher']}' is on row {vote['example_id']}, which is not "
                        "among the rows to vote on; the votes belong to other data, run the vote stage again"
                    )
                self._add(row, vote)

    def _add(self, row: int, vote: _VoteParts) -> None:
        name, label = vote["teacher"], vote.get("label")
        before = self.patterns[row]
        self.patterns[row] = self.ballots.add(before, vote["example_id"], name, label)
        plain = vote.get("uncalibrated")
        if plain is not None:
            if self.plain_patterns is None:
                self.plain_patterns = [self.ballots.without_votes(pattern) for pattern in self.patterns]
            self.plain_patterns[row] = self.ballots.add(self.plain_patterns[row], vote["example_id"], name, plain)
        self.rows_of_votes.append(row)
        if label is None:
            self._abstain(row, vote)
            return
        sure = vote.get("confidence")
        sure = 1.0 if sure is None else sure
        self.lean[row] += sure if label == self.ballots.systems[0] else -sure
        self.calls[name] += 1
        self.tokens[name] += vote.get("tokens", 0)

    def _abstain(self, row: int, vote: _VoteParts) -> None:
        self.abstained[vote["teacher"]] += 1
        if self.plain_patterns is not None:
            plain = self.plain_patterns[row]
            self.plain_patterns[row] = self.ballots.add(plain, vote["example_id"], vote["teacher"], None)

    def excuse(self, names: Collection[str]) -> None:
        """These teachers failed: the votes that they have not cast will not come."""
        if not names:
            return
        mark = cache(lambda pattern: self.ballots.mark_absent(pattern, names))
        self.patterns = [mark(pattern) for pattern in self.patterns]
        if self.plain_patterns is not None:
            self.plain_patterns = [mark(pattern) for pattern in self.plain_patterns]

    def edit(self, edits: Mapping[str, Edit], source: str) -> None:
        """Take labels that a person has set; raises BadInputError for a row that is not voted on."""
        for example_id, edit in edits.items():
            row = self.row_of.get(example_id)
            if row is None:
                raise BadInputError(
                    f"{source}: there is no row {example_id} among the rows that are voted on; the data have changed "
                    "since it was exported: take the line out, or export and edit again"
                )
            self.edits[row] = edit

    def check_complete(self, round_name: str) -> None:
        """Raise BadInputError where a vote that the round should have brought is missing."""
        absent = {pattern: self._absent(pattern, round_name) for pattern in set(self.patterns)}
        if not any(absent.values()):
            return
        for example_id, row in self.row_of.items():
            if absent[self.patterns[row]]:
                raise BadInputError(
                    f"row {example_id}: the votes of {', '.join(absent[self.patterns[row]])} are missing, so it has no "
                    "label; give tally the votes of both rounds, made with these settings"
                )

    def _absent(self, pattern: str, round_name: str) -> list[str]:
        """Names of those whose votes the round should have brought."""
        names = self.ballots.teachers
        unasked = [name for name, mark in zip(names, pattern, strict=True) if mark == NOT_ASKED]
        first = [name for name in unasked if name in names[: self.ballots.first_round]]
        return first or ([] if round_name == "first" or self.ballots.outcome(pattern).decided else unasked)

    def counted(self) -> Counter[str]:
        """How many rows have each pattern."""
        return Counter(self.patterns)

    def shown(self, system: System) -> list[str]:
        """Ids of a few rows decided for a system, evenly spread over the data, so that sorted data show all kinds."""
        outcomes = {pattern: self.ballots.outcome(pattern) for pattern in set(self.patterns)}
        own = {pattern for pattern, outcome in outcomes.items() if outcome.decided and outcome.system == system}
        rows = array("q", (row for row, pattern in enumerate(self.patterns) if pattern in own))
        chosen = {rows[place * len(rows) // SHOWN_ROWS] for place in range(SHOWN_ROWS)} if rows else set()
        return self._ids(sorted(chosen))

    def contested(self) -> list[str]:
        """Ids of the rows that teachers disagree most about: least agreement first, then least sure on balance."""
        outcome = self.ballots.outcome
        torn = (pattern for pattern in set(self.patterns) if len(set(pattern).difference(NO_VOTE)) > 1)
        split = {pattern: outcome(pattern).agreement for pattern in torn}
        rows = (row for row, pattern in enumerate(self.patterns) if pattern in split)
        return self._ids(
            heapq.nsmallest(SHOWN_ROWS, rows, key=lambda row: (split[self.patterns[row]], abs(self.lean[row]), row))
        )

    def _ids(self, rows: list[int]) -> list[str]:
        wanted = set(rows)
        ids = {row: example_id for example_id, row in self.row_of.items() if row in wanted}
        return [ids[row] for row in rows]
