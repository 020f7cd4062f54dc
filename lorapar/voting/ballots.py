"""Votes become labels: weighted majority, ties, least agreement, and when no further vote is needed.

The votes on one example are a pattern: a string with one mark for each teacher, in the order of the settings. `1` is
System 1, `2` System 2 and so on in the order of the systems, `-` means not asked, `x` failed or abstained. There are at
most (systems + 2) ** teachers patterns, so a million rows share a few hundred, and statistics are computed once for
each pattern. Weights are whole numbers internally: 0.1 + 0.2 ties with 0.3.

As controls of a study, training rows may have labels from the data or by chance instead. Held-out and development rows
keep the labels that votes give them, so metrics and gate compare the same rows as with votes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from math import lcm
from typing import NoReturn

from lorapar.config import SYSTEMS, TeacherConfig, VotingConfig
from lorapar.config.voting import Labels
from lorapar.errors import BadInputError
from lorapar.records import Example, System

NOT_ASKED = "-"
ABSENT = "x"
"""The teacher failed or abstained, and will not vote on this row."""
NO_VOTE = NOT_ASKED + ABSENT


@dataclass(frozen=True)
class Outcome:
    """The result of a pattern."""

    system: System | None
    """The label; None: held out. Where `decided` is false, the label that the votes so far would give."""
    decided: bool
    """Whether no remaining vote can change `system` or `below_agreement`."""
    below_agreement: bool
    tied: bool
    """Whether every teacher has voted and no system has more weight than every other."""
    agreement: float
    """The label's share of the cast weight; without a label, the heavier side's."""


class Ballots:
    """The rules of a vote: the teachers, their weights, and the settings that turn votes into labels."""

    def __init__(
        self,
        teachers: Sequence[TeacherConfig],
        voting: VotingConfig,
        systems: Sequence[System] = SYSTEMS,
        *,
        seed: int = 0,
    ) -> None:
        self.systems = tuple(systems)
        self.marks = {system: str(number) for number, system in enumerate(self.systems, 1)}
        """The mark of each system in a pattern."""
        self.system_of = {mark: system for system, mark in self.marks.items()}
        self.teachers = tuple(teacher.name for teacher in teachers)
        self.first_round = quorum_size(len(teachers), voting.quorum)
        self.given = Given(voting.labels, self.systems, seed)
        """The labels that training rows have in place of votes."""
        self._voting = voting
        self._place = {name: place for place, name in enumerate(self.teachers)}
        exact = [_exact(teacher.weight) for teacher in teachers]
        self._unit = lcm(*(weight.denominator for weight in exact))
        self._weights = [int(weight * self._unit) for weight in exact]
        self._least = _exact(voting.min_agreement)
        self.outcome = cache(self._outcome)
        """The result of a pattern."""
        self._after = cache(self._added)  # a few hundred patterns, which all rows share
        self.weights = cache(self._sides)
        """Weight of a pattern's votes for each system."""
        self.nobody = NOT_ASKED * len(self.teachers)
        """The pattern of an example without votes."""
        least = voting.min_teachers
        self.may_fail = len(self.teachers) - least if least is not None else 0
        """How many teachers may fail."""

    def round_teachers(self, round_name: str) -> tuple[str, ...]:
        """Names of the teachers in the round `first` (asked about every row) or `rest`."""
        return self.teachers[: self.first_round] if round_name == "first" else self.teachers[self.first_round :]

    def add(self, pattern: str, example_id: str, teacher: str, label: System | None) -> str:
        """The pattern with one more vote, or an abstention (None); raises BadInputError for unknown teachers and second
        votes.
        """
        after = self._after(pattern, teacher, label)
        if after is None:
            self._refuse(pattern, example_id, teacher)
        return after

    def _added(self, pattern: str, teacher: str, label: System | None) -> str | None:
        place = self._place.get(teacher)
        if place is None or pattern[place] in self.system_of:
            return None
        mark = ABSENT if label is None else self.marks[label]
        return pattern[:place] + mark + pattern[place + 1 :]

    def _refuse(self, pattern: str, example_id: str, teacher: str) -> NoReturn:
        if teacher not in self._place:
            raise BadInputError(
                f"row {example_id}: a vote of '{teacher}', which is not one of the teachers "
                f"({', '.join(self.teachers)}); run the vote stage again with these settings"
            )
        raise BadInputError(f"row {example_id}: teacher '{teacher}' voted twice; give each folder of votes once")

    def mark_absent(self, pattern: str, names: Iterable[str]) -> str:
        """The pattern without further votes of these teachers; the votes they have cast stay."""
        for place in (self._place[name] for name in names):
            if pattern[place] == NOT_ASKED:
                pattern = pattern[:place] + ABSENT + pattern[place + 1 :]
        return sys.intern(pattern)

    @staticmethod
    def without_votes(pattern: str) -> str:
        """The pattern with only its absences."""
        return "".join(ABSENT if mark == ABSENT else NOT_ASKED for mark in pattern)

    def _sides(self, pattern: str) -> dict[str, float]:
        return {system: weight / self._unit for system, weight in zip(self.systems, self._count(pattern), strict=True)}

    def _outcome(self, pattern: str) -> Outcome:
        """Decided where all extremes give the same result: all remaining votes for one system, for each of the systems.

        A label that wins every extreme wins every other outcome too. Against each rival it has there at least the
        weight, and the rival at most the weight, of the extreme where all remaining votes go to that rival.
        """
        sides = self._count(pattern)
        remaining = sum(weight for weight, mark in zip(self._weights, pattern, strict=True) if mark == NOT_ASKED)
        cast = sum(sides)
        if not cast:
            return Outcome(None, decided=not remaining, below_agreement=False, tied=False, agreement=0.0)
        ends = {self._judge(self._with(sides, place, remaining)) for place in range(len(sides))}
        system, below = next(iter(ends)) if len(ends) == 1 else self._judge(sides)
        own = max(sides) if system is None else sides[self.systems.index(system)]
        return Outcome(
            system,
            decided=len(ends) == 1,
            below_agreement=below,
            tied=remaining == 0 and sides.count(max(sides)) > 1,
            agreement=own / cast,
        )

    @staticmethod
    def _with(sides: tuple[int, ...], place: int, more: int) -> tuple[int, ...]:
        return (*sides[:place], sides[place] + more, *sides[place + 1 :])

    def _judge(self, sides: tuple[int, ...]) -> tuple[System | None, bool]:
        """The label of final weights, and whether it has too little agreement."""
        most = max(sides)
        below = most < self._least * sum(sides)
        if below and self._voting.below_agreement == "hold_out":
            return None, below
        first = [system for system, weight in zip(self.systems, sides, strict=True) if weight == most]
        if len(first) == 1 or self._voting.tie in first:
            return (first[0] if len(first) == 1 else self._voting.tie), below
        return (None if self._voting.tie == "hold_out" else first[-1]), below

    def _count(self, pattern: str) -> tuple[int, ...]:
        return tuple(
            sum(weight for weight, cast in zip(self._weights, pattern, strict=True) if cast == mark)
            for mark in self.marks.values()
        )


def quorum_size(teachers: int, quorum: int | None) -> int:
    """Number of teachers asked about every row: the setting, or a bare majority (2 of 3, 3 of 5)."""
    return quorum if quorum is not None else teachers // 2 + 1


def _exact(number: float) -> Fraction:
    """The exact decimal number: 0.1 is a tenth, not the nearest binary fraction."""
    return Fraction(repr(number))


def is_voted_on(example: Example, labels: Labels = "votes") -> bool:
    """Whether teachers vote on a row, where `labels` says how training rows get theirs."""
    return Given(labels).asks(example.split, example.known_system)


@dataclass(frozen=True)
class Given:
    """What `voting.labels` gives."""

    labels: Labels = "votes"
    systems: Sequence[System] = SYSTEMS
    seed: int = 0
    """The seed of labels by chance."""

    def asks(self, split: str, known: System | None) -> bool:
        """Whether teachers are asked: not about rows with a label, nor about held-out rows whose system is known."""
        if split != "train":
            return known is None
        return self.labels == "votes" or (self.labels == "data" and known is None)

    def label(self, example_id: str, split: str, known: System | None) -> System | None:
        """The label of a row in place of votes; None where there is none.

        By chance, every system is equally likely, and a row's label depends only on its id and the seed.
        """
        if split != "train" or self.labels == "votes":
            return None
        if self.labels == "data":
            return known
        drawn = int.from_bytes(blake2b(f"{self.seed}\0{example_id}".encode(), digest_size=8).digest())
        return self.systems[drawn % len(self.systems)]
