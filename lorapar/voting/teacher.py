"""The interface of every teacher backend: it takes examples and yields votes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Protocol

from lorapar.config import ModelConfig, TeacherConfig
from lorapar.records import Example, System, Vote


class Teacher(Protocol):
    """One voter, ready to be asked."""

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example, in any order, as soon as it is known, so that it can go to disk.

        A row that the teacher refuses has a vote without a label. Rows whose ids are in `done` need no vote, because an
        earlier, stopped call has them. They are still among the examples: a row's probabilities depend, in their last
        bits, on the rows in its batch, and votes after a stop must equal those of an uninterrupted call.
        """


def teacher_model(config: TeacherConfig, base: ModelConfig) -> ModelConfig:
    """The model that runs a teacher: its own, or the base model, in the teacher's number format."""
    own: dict[str, object] = {"dtype": config.dtype, "autocast": "none"}
    if config.model is not None:
        model = ModelConfig(name=config.model, revision=config.revision, trust_remote_code=base.trust_remote_code)
        return model.model_copy(update=own)
    if config.revision is not None:
        own |= {"revision": config.revision, "digest": None}
    return base.model_copy(update=own)


def label_of(log_probs: Mapping[System, float]) -> tuple[System, float]:
    """The likeliest system and its probability among all (softmax); at a tie the last one, System 2 of two."""
    label: System = max(reversed(list(log_probs)), key=lambda system: log_probs[system])
    return label, 1.0 / sum(math.exp(value - log_probs[label]) for value in log_probs.values())
