"""The teachers of a run: opened when first asked, with their votes cached by content and their bias subtracted.

With the cache, a second run over larger data asks only about new rows. The key of a vote is the sha256 of everything it
depends on: the example's question and answer, the template with its label words, the teacher's name, the identity of
its model, the backend and the number format. `lorapar.store.remembered` keeps the votes in one SQLite file, and in the
object store where there is one.

A teacher's bias towards one label is measured on probe rows; without subtracting it, a teacher that gives one label to
nearly every row would decide alone. It is the mean over the probe rows of log P(System 1's word) - log P(System 2's
word); of several systems, one for each against the last. Subtracting it is right where the systems are about equally
frequent. Where they are not, it hurts, because it also removes the rows' own balance. So every vote also keeps its
uncalibrated label, and the tally shows both.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from lorapar.config import ModelConfig, TeacherConfig
from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.records import Example, System, Vote, digest_of
from lorapar.store import ObjectStore
from lorapar.store.remembered import ContentCache
from lorapar.voting.teacher import Teacher, label_of, target_text, teacher_model, template_digest

VERSION = 1
"""Increase this whenever lorapar's own code gives the same question another answer: it is part of every key."""
_PART = 512
_KEPT = {"label", "confidence", "log_probs", "template", "raw", "tokens", "thinking_tokens"}


class VoteCache:
    """Votes by content, in the file `path`.

    `identify` returns the digest of what a teacher's votes depend on besides the example. It is called when a teacher
    is first looked up, and may raise the LoraparError of a teacher that cannot be opened. `anew`: nothing from before
    is recalled.
    """

    def __init__(
        self,
        path: Path,
        teachers: Sequence[TeacherConfig],
        identify: Callable[[TeacherConfig], str],
        store: ObjectStore | None = None,
        *,
        anew: bool = False,
    ) -> None:
        self._teachers = {teacher.name: teacher for teacher in teachers}
        self.identity = cache(lambda name: identify(self._teachers[name]))
        """What a teacher's votes depend on besides the example, as a digest, by the teacher's name."""
        self._votes = ContentCache(path, "votes", store, anew=anew)

    def recall(self, name: str, examples: Sequence[Example]) -> Iterator[Vote]:
        """This teacher's cached votes on these examples, in order, each marked as cached; no damaged ones."""
        config, identity = self._teachers[name], self.identity(name)
        for start in range(0, len(examples), _PART):
            part = examples[start : start + _PART]
            keys = [vote_key(identity, example) for example in part]
            found = self._votes.recall(identity, keys)
            for example, key in zip(part, keys, strict=True):
                vote = _cached(found[key], example, config) if key in found else None
                if vote is not None:
                    yield vote

    def keep(self, name: str, example: Example, vote: Vote) -> None:
        """Add a vote; it is on disk after the next flush."""
        identity = self.identity(name)
        self._votes.keep(identity, vote_key(identity, example), vote.model_dump_json(include=_KEPT, exclude_none=True))

    def flush(self) -> None:
        """Write new votes to the local file and to the store."""
        self._votes.flush()

    def __enter__(self) -> VoteCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._votes.__exit__(kind, error, trace)


def _cached(text: str, example: Example, config: TeacherConfig) -> Vote | None:
    """The vote that was kept as this text; None where it was damaged, so that it is asked again."""
    try:
        known = json.loads(text)
        vote = Vote(example_id=example.id, teacher=config.name, weight=config.weight, cached=True, **known)
    except (ValueError, TypeError, RecursionError):
        return None
    return None if vote.label is None else vote  # without one none is kept


def vote_key(identity: str, example: Example) -> bytes:
    """sha256 of everything a vote depends on, which the row's id is not."""
    return hashlib.sha256(f"{identity}\0{len(example.asked)}\0{example.asked}{example.answer}".encode()).digest()


def teacher_identity(config: TeacherConfig, base: ModelConfig, *, role_play: bool) -> str:
    """Digest of what a teacher's votes depend on besides the example.

    A model behind an endpoint is identified by its address, its name, the `revision` in the settings and their
    additions to requests. Keys and headers do not change answers, so they are left out.
    """
    return digest_of(
        {
            "version": VERSION,
            "teacher": config.name,
            "backend": config.backend,
            "model": _served(config) if config.backend == "openai" else _weights(config, base),
            "template": template_digest(config.template, target_text(base), role_play),
        }
    )


def _served(config: TeacherConfig) -> dict[str, Any]:
    served: dict[str, Any] = {"endpoint": config.endpoint, "name": config.model, "revision": config.revision}
    if config.openai is not None and config.openai.extra_body:
        served["extra_body"] = config.openai.extra_body
    return served


def _weights(config: TeacherConfig, base: ModelConfig) -> dict[str, str | None]:
    from lorapar.basemodel import resolve_model  # tally, which counts votes, knows no model

    model = resolve_model(teacher_model(config, base))
    quantization = config.vllm.quantization if config.vllm else None
    return {"digest": model.digest, "revision": model.revision, "dtype": config.dtype, "quantization": quantization}


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
