"""The `transformers` backend: a teacher on this machine that is read, not generated from.

A vote is the likelier of the two label words; nothing is sampled and nothing can fall outside the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

import torch

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.encoding import Choice, common_prefix, encode
from lorapar.voting.likelihood import ChoiceScorer
from lorapar.voting.teacher import label_of
from lorapar.voting.templates import render, template_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW_BATCHES = 32
"""Batches whose rows are sorted by length together: less padding, and memory that does not grow with the data."""


class TransformersTeacher:
    """One teacher of a loaded model (a `lorapar.voting.teacher.Teacher`); several may share the model.

    `target` is the role-played model as `templates.target_text` writes it.
    """

    def __init__(
        self,
        config: TeacherConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        target: str,
        role_play: bool,
    ) -> None:
        self.config = config
        self.template = template_digest(config.template, target, role_play)
        self._tokenizer = tokenizer
        self._target = target
        self._role_play = role_play
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._scorer = ChoiceScorer(model, self._common_beginning())

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example that is not in `done`; within a window of batches the longest come first.

        Raises BadInputError for a row that is longer than the model reads, and where memory or numbers give out.
        """
        size = self.config.batch_size
        for start in range(0, len(examples), size * WINDOW_BATCHES):
            window = examples[start : start + size * WINDOW_BATCHES]
            if all(example.id in done for example in window):
                continue
            pairs = list(zip(window, self._choices(window), strict=True))
            pairs.sort(key=lambda pair: pair[1].length, reverse=True)
            for first in range(0, len(pairs), size):
                batch = pairs[first : first + size]
                if not all(example.id in done for example, _ in batch):
                    yield from (vote for vote in self._vote(batch) if vote.example_id not in done)

    def _vote(self, pairs: Sequence[tuple[Example, Choice]]) -> Iterator[Vote]:
        try:
            scored = self._scorer.log_probs([choice for _, choice in pairs])
        except torch.OutOfMemoryError:
            raise BadInputError(
                f"teacher '{self.config.name}': the GPU's memory is too small for {len(pairs)} rows of up to "
                f"{pairs[0][1].length} tokens at once; lower its batch_size (votes so far are kept)"
            ) from None
        for (example, choice), log_probs in zip(pairs, scored, strict=True):
            yield self._record(example, choice, log_probs)

    def _record(self, example: Example, choice: Choice, log_probs: dict[System, float]) -> Vote:
        if not all(math.isfinite(value) for value in log_probs.values()):
            raise BadInputError(
                f"teacher '{self.config.name}': the log-probabilities of row {example.id} are not finite; its weights "
                f"are damaged or {self.config.dtype} is too narrow for them, try dtype float32"
            )
        label, confidence = label_of(log_probs)
        return Vote(
            example_id=example.id,
            teacher=self.config.name,
            label=label,
            weight=self.config.weight,
            confidence=confidence,
            log_probs={str(system): value for system, value in log_probs.items()},
            template=self.template,
            raw=self.config.template.label_words[label].strip(),
            tokens=len(choice.prompt) + len(choice.words[label]),
        )

    def _choices(self, examples: Sequence[Example]) -> list[Choice]:
        rendered = [render(self.config.template, example, self._target, self._role_play) for example in examples]
        choices = encode(self._tokenizer, rendered)
        for example, choice in zip(examples, choices, strict=True):
            if self._longest is not None and choice.length > self._longest:
                raise BadInputError(
                    f"teacher '{self.config.name}': row {example.id} has {choice.length} tokens with the teacher's "
                    f"template, and its model reads {self._longest}; shorten the row or leave it out"
                )
        return choices

    def _common_beginning(self) -> tuple[int, ...]:
        """Tokens that prompts begin with, whatever the example: what prompts of unlike examples share."""
        unlike = [Example(id="", question=text, answer=text) for text in ("one", "Two", "3", " four", "'", "\n")]
        prompts = [choice.prompt for choice in self._choices(unlike)]
        return prompts[0][: common_prefix(*prompts)]
