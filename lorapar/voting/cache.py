"""A cache of votes by content: a second run over larger data asks only about new rows.

The key of a vote is the sha256 of everything it depends on: the example's question and answer, the template with its
label words, the teacher's name, the identity of its model, the backend and the number format.
`lorapar.store.remembered` keeps the votes in one SQLite file, and in the object store where there is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from lorapar.config import ModelConfig, TeacherConfig
from lorapar.records import Example, Vote, digest_of
from lorapar.store import ObjectStore
from lorapar.store.remembered import ContentCache
from lorapar.voting.teacher import teacher_model
from lorapar.voting.templates import target_text, template_digest

VERSION = 1
"""Increase this whenever lorapar's own code gives the same question another answer: it is part of every key."""
_PART = 512
_KEPT = {"label", "confidence", "log_probs", "template", "raw", "tokens", "thinking_tokens"}


class VoteCache:
    """Votes by content, in the file `path`.

    `identify` returns the digest of what a teacher's votes depend on besides the example. It is called when a teacher
    is first looked up, and may raise the LoraparError of a teacher that cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        teachers: Sequence[TeacherConfig],
        identify: Callable[[TeacherConfig], str],
        store: ObjectStore | None = None,
    ) -> None:
        self._teachers = {teacher.name: teacher for teacher in teachers}
        self.identity = cache(lambda name: identify(self._teachers[name]))
        """What a teacher's votes depend on besides the example, as a digest, by the teacher's name."""
        self._votes = ContentCache(path, "votes", store)

    def recall(self, name: str, examples: Sequence[Example]) -> Iterator[Vote]:
        """This teacher's cached votes on these examples, in order, each marked as cached."""
        config, identity = self._teachers[name], self.identity(name)
        for start in range(0, len(examples), _PART):
            part = examples[start : start + _PART]
            keys = [vote_key(identity, example) for example in part]
            found = self._votes.recall(identity, keys)
            for example, key in zip(part, keys, strict=True):
                if key in found:
                    known = json.loads(found[key])
                    yield Vote(example_id=example.id, teacher=name, weight=config.weight, cached=True, **known)

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
