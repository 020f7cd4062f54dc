"""The teachers of a run: opened when first asked, their votes remembered, and their bias subtracted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager

from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.records import Example, Vote
from lorapar.voting.cache import VoteCache
from lorapar.voting.calibration import Bias, bias, calibrated
from lorapar.voting.teacher import Teacher


class TeacherFailedError(Exception):
    """A teacher cannot be had, or has failed; `error` says why."""

    def __init__(self, error: LoraparError) -> None:
        super().__init__(str(error))
        self.error = error


class TeacherPool:
    """Teachers by name.

    `open_teacher` makes one from its name; it is called only where something has to be asked. With `probe` rows each
    teacher's bias is measured on them before its first vote, and subtracted from all its votes.
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
        """Whether `recall` can give anything."""
        return self._cache is not None

    def recall(self, name: str, examples: Sequence[Example]) -> Iterator[Vote]:
        """Votes that are known from earlier, marked as such; raises as `votes` does where a bias is measured."""
        if self._cache is None:
            return
        with _teacher_failures():
            self._cache.identity(name)
        for vote in self._cache.recall(name, examples):
            yield self._calibrated(name, vote)

    def votes(self, name: str, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """Ask a teacher, as `Teacher.votes` says; raises TeacherFailedError where it cannot be had or fails."""
        for vote in self._asked(name, examples, done):
            yield self._calibrated(name, vote)

    def _asked(self, name: str, examples: Sequence[Example], done: Set[str]) -> Iterator[Vote]:
        by_id = {example.id: example for example in examples} if self._cache is not None else {}
        for vote in self._said(name, examples, done):
            if self._cache is not None and vote.label is not None:  # a filter may be another one tomorrow
                self._cache.keep(name, by_id[vote.example_id], vote)
            yield vote

    def _said(self, name: str, examples: Sequence[Example], done: Set[str]) -> Iterator[Vote]:
        # Errors of whoever takes the votes (the disk, the store) are not raised in here, and not the teacher's.
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
        said = {vote.example_id for vote in known}
        asked = [example for example in probe if example.id not in said]
        return bias([*known, *(self._asked(name, asked, frozenset()) if asked else ())])


@contextmanager
def _teacher_failures() -> Iterator[None]:
    """Tell what goes wrong with a teacher from what goes wrong with the disk or the store."""
    try:
        yield
    except (UnreachableError, BadInputError) as error:
        raise TeacherFailedError(error) from error
