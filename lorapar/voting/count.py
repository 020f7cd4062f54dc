"""Count the votes on every row: one pass over the examples, one over the votes, a few bytes a row.

A row's votes are a pattern (`lorapar.voting.ballots`) and rows share pattern strings, so a million rows take about as
much memory as their ids.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote, read_records
from lorapar.voting.ballots import NOT_ASKED, Ballots, is_voted_on

SHOWN_ROWS = 20
"""Rows of each label, and contested rows, that a summary names."""


class Count:
    """The votes on all rows that teachers are asked about. Rows are numbered in the order of the examples."""

    def __init__(self, ballots: Ballots) -> None:
        self.ballots = ballots
        self.row_of: dict[str, int] = {}
        self.patterns: list[str] = []
        self.gold: list[System | None] = []
        """The known system of each row, where the data names it."""
        self.heldout = bytearray()
        """1 where the row is held out for evaluation."""
        self.lean = array("d")
        """Confidence for System 1 less confidence for System 2, summed over a row's votes."""
        self.rows_of_votes = array("q")
        """The row of each vote, in the order the votes were read."""
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.known_heldout: Counter[str] = Counter()
        """Held-out rows that nobody is asked about, by the system the data names."""

    def read_examples(self, path: Path) -> None:
        """Number the rows; raises BadInputError for an id that is there twice."""
        for example in read_records(path, Example):
            if not is_voted_on(example):
                self.known_heldout[str(example.known_system)] += 1
                continue
            if self.row_of.setdefault(example.id, len(self.patterns)) != len(self.patterns):
                raise BadInputError(f"{path}: the id {example.id} is there twice; ids must differ")
            self.patterns.append(self.ballots.nobody)
            self.gold.append(example.known_system)
            self.heldout.append(example.split == "heldout")
            self.lean.append(0.0)

    def read_votes(self, paths: Iterable[Path]) -> None:
        """Add all votes; raises BadInputError for unknown rows and teachers and for second votes."""
        for path in paths:
            for vote in read_records(path, Vote):
                row = self.row_of.get(vote.example_id)
                if row is None:
                    raise BadInputError(
                        f"{path}: a vote of teacher '{vote.teacher}' is on row {vote.example_id}, which is not among "
                        "the rows to vote on; the votes belong to other data, run the vote stage again"
                    )
                self.patterns[row] = self.ballots.add(self.patterns[row], vote)
                self.rows_of_votes.append(row)
                sure = 1.0 if vote.confidence is None else vote.confidence
                self.lean[row] += sure if vote.label == "system1" else -sure
                self.calls[vote.teacher] += 1
                self.tokens[vote.teacher] += vote.tokens

    def check_complete(self, round_name: str) -> None:
        """Raise BadInputError where a vote that the round should have brought is missing."""
        first = range(self.ballots.first_round)
        rest = round_name == "rest"
        for example_id, row in self.row_of.items():
            pattern = self.patterns[row]
            absent = [self.ballots.teachers[place] for place in first if pattern[place] == NOT_ASKED]
            if rest and not absent and not self.ballots.outcome(pattern).decided:
                absent = [name for name, mark in zip(self.ballots.teachers, pattern, strict=True) if mark == NOT_ASKED]
            if absent:
                raise BadInputError(
                    f"row {example_id}: the votes of {', '.join(absent)} are missing, so it has no label; "
                    "give tally the votes of both rounds, made with these settings"
                )

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
        split = {pattern: outcome(pattern).agreement for pattern in set(self.patterns) if {"1", "2"} <= set(pattern)}
        rows = (row for row, pattern in enumerate(self.patterns) if pattern in split)
        return self._ids(
            heapq.nsmallest(SHOWN_ROWS, rows, key=lambda row: (split[self.patterns[row]], abs(self.lean[row]), row))
        )

    def _ids(self, rows: list[int]) -> list[str]:
        wanted = set(rows)
        ids = {row: example_id for example_id, row in self.row_of.items() if row in wanted}
        return [ids[row] for row in rows]
