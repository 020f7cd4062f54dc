"""The `transformers` backend: a teacher on this machine that is read, not generated from.

A vote is the likelier of the two label words; nothing is sampled and nothing can fall outside the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

import torch

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, Vote
from lorapar.voting.encoding import Choice, common_prefix
from lorapar.voting.likelihood import ChoiceScorer
from lorapar.voting.reader import Reader

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
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._reader = Reader(config, tokenizer, longest, target=target, role_play=role_play)
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
            pairs = list(zip(window, self._reader.choices(window), strict=True))
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
                f"{pairs[0][1].length} tokens at once; lower its batch_size"
            ) from None
        for (example, choice), log_probs in zip(pairs, scored, strict=True):
            yield self._reader.vote(example, choice, log_probs)

    def _common_beginning(self) -> tuple[int, ...]:
        """Tokens that prompts begin with, whatever the example: what prompts of unlike examples share."""
        unlike = [Example(id="", question=text, answer=text) for text in ("one", "Two", "3", " four", "'", "\n")]
        prompts = [choice.prompt for choice in self._reader.choices(unlike)]
        return prompts[0][: common_prefix(*prompts)]
