"""The teachers of a run: opened when first asked, with their votes cached and their bias subtracted.

A teacher's bias towards one label is measured on probe rows; without subtracting it, a teacher that gives one label to
nearly every row would decide alone. It is the mean over the probe rows of log P(System 1's word) - log P(System 2's
word); of several systems, one for each against the last. Subtracting it is right where the systems are about equally
frequent. Where they are not, it hurts, because it also removes the rows' own balance. So every vote also keeps its
uncalibrated label, and the tally shows both.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.records import Example, System, Vote
from lorapar.voting.cache import VoteCache
from lorapar.voting.teacher import Teacher, label_of

PROBE = "probe.jsonl"
"""The file of probe rows, next to the votes; the second round measures its teachers on the same rows."""
Bias = Mapping[System, float]
"""The mean log-odds by system against the last one, whose own is 0."""


class TeacherFailedError(Exception):
    """A teacher cannot be opened, or has failed; `error` says why."""

    def __init__(self, error: LoraparError) -> None:
        super().__init__(str(error))
        self.error = error


class TeacherPool:
    """Teachers by name.

    `open_teacher` makes a teacher from its name; it is called only where there is something to ask. With `probe` rows,
    each teacher's bias is measured on them before its first vote, and subtracted from all its votes.
    """

    def __init__(
        self,
        open_teacher: Callable[[str], Teacher],
        cache: VoteCache | None = None,
        probe: Sequence[Example] | None = None,
    ) -> None:
        self._open_teacher = open_teacher
        self._cache = cache
        self._probe = probe
        self._name = ""
        self._teacher: Teacher | None = None
        self._biases: dict[str, Bias] = {}

    @property
    def remembers(self) -> bool:
        """Whether there is a cache for `recall`."""
        return self._cache is not None

    def recall(self, name: str, examples: Sequence[Example]) -> Iterator[Vote]:
        """Cached votes, marked as such; raises like `votes` where a bias is measured."""
        if self._cache is None:
            return
        with _teacher_failures():
            self._cache.identity(name)
        for vote in self._cache.recall(name, examples):
            yield self._calibrated(name, vote)

    def votes(self, name: str, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """Ask a teacher, like `Teacher.votes`; raises TeacherFailedError where it cannot be opened or fails."""
        for vote in self._asked(name, examples, done):
            yield self._calibrated(name, vote)

    def _asked(self, name: str, examples: Sequence[Example], done: Set[str]) -> Iterator[Vote]:
        by_id = {example.id: example for example in examples} if self._cache is not None else {}
        for vote in self._votes(name, examples, done):
            if self._cache is not None and vote.label is not None:  # a filter may change
                self._cache.keep(name, by_id[vote.example_id], vote)
            yield vote

    def _votes(self, name: str, examples: Sequence[Example], done: Set[str]) -> Iterator[Vote]:
        # Errors of the caller (the disk, the store) are not raised here and are not the teacher's.
        with _teacher_failures():
            if self._teacher is None or self._name != name:
                self._teacher, self._name = self._open_teacher(name), name
            yield from self._teacher.votes(examples, done)

    def _calibrated(self, name: str, vote: Vote) -> Vote:
        if self._probe is None:
            return vote
        if name not in self._biases:
            self._biases[name] = self._measured(name, self._probe)
        return calibrated(vote, self._biases[name])

    def _measured(self, name: str, probe: Sequence[Example]) -> Bias:
        known = list(self._cache.recall(name, probe)) if self._cache is not None else []
        known_ids = {vote.example_id for vote in known}
        asked = [example for example in probe if example.id not in known_ids]
        return bias([*known, *(self._asked(name, asked, frozenset()) if asked else ())])


@contextmanager
def _teacher_failures() -> Iterator[None]:
    """Distinguish a teacher's errors from those of the disk or the store."""
    try:
        yield
    except (UnreachableError, BadInputError) as error:
        raise TeacherFailedError(error) from error


def probe_rows(examples: Iterable[Example], count: int) -> list[Example]:
    """`count` rows chosen by the digests of their contents: the same for the same data in any order, and nearly the
    same once the data have grown.
    """
    return heapq.nsmallest(count, examples, key=_place)


def bias(votes: Sequence[Vote]) -> Bias:
    """Mean log-odds of each system over the votes; raises BadInputError for votes without log-probabilities."""
    votes = [vote for vote in votes if vote.label is not None]
    if not votes:
        raise BadInputError("voting.calibrate needs rows to measure teachers on, and there are none")
    odds = [_log_odds(vote) for vote in votes]
    return {system: sum(one[system] for one in odds) / len(odds) for system in odds[0]}


def calibrated(vote: Vote, lean: Bias) -> Vote:
    """The vote with `lean` subtracted from its log-odds: new label and confidence, and the uncalibrated label."""
    if vote.label is None:
        return vote
    label, confidence = label_of({system: odds - lean[system] for system, odds in _log_odds(vote).items()})
    return vote.model_copy(update={"label": label, "confidence": confidence, "uncalibrated": vote.label})


def _log_odds(vote: Vote) -> dict[System, float]:
    if vote.log_probs is None or not all(math.isfinite(value) for value in vote.log_probs.values()):
        raise BadInputError(
            f"teacher '{vote.teacher}': its endpoint gives no log-probabilities of the label words, so it cannot be "
            "calibrated; turn voting.calibrate off, take label words of one token at a vLLM server, or another backend"
        )
    last = list(vote.log_probs.values())[-1]
    return {system: value - last for system, value in vote.log_probs.items()}


def _place(example: Example) -> tuple[bytes, str]:
    content = f"{example.asked}\0{example.answer}".encode()
    return hashlib.sha256(content).digest(), example.id
