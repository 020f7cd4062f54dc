"""The `transformers` backend: a teacher on this machine that scores label words and generates nothing.

A vote is the likelier label word; nothing is sampled, so every answer is a label. The words' log-probabilities are
computed in right-padded batches, and the prompts' common beginning is computed once.

Shapes: N sequences in a batch, L tokens of the longest one, P tokens of the common beginning, U positions whose logits
are read, V size of the vocabulary, R label tokens looked up.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.reader import Choice, Reader, common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHORTEST_PREFIX = 8
"""The least tokens of a common beginning that is worth a cache."""
WINDOW_BATCHES = 32
"""How many batches are sorted by length together: less padding, and memory that does not grow with the data."""


@dataclass
class _Plan:
    """The sequences of one batch, and which of their next-token probabilities belong to which label word."""

    sequences: list[tuple[int, ...]] = field(default_factory=list)
    sequence_of: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    word: list[int] = field(default_factory=list)
    """Index of the label word a looked-up token belongs to; words are numbered in the order of the choices."""
    words: int = 0

    def add(self, choice: Choice) -> None:
        """Plan one choice: a word needs its tokens except the last as input; words may share a sequence."""
        own: list[int] = []
        for word in sorted(choice.words.values(), key=len, reverse=True):
            needed = choice.prompt + word[:-1]
            if not any(self.sequences[index][: len(needed)] == needed for index in own):
                own.append(len(self.sequences))
                self.sequences.append(needed)
        for word in choice.words.values():
            needed = choice.prompt + word[:-1]
            serving = next(index for index in own if self.sequences[index][: len(needed)] == needed)
            for offset, token in enumerate(word):
                self.sequence_of.append(serving)
                self.position.append(len(choice.prompt) - 1 + offset)
                self.token.append(token)
                self.word.append(self.words)
            self.words += 1


class ChoiceScorer:
    """Log-probabilities of label words under one model.

    `prefix` holds tokens that (nearly) all prompts begin with: their keys and values are computed once and copied into
    each batch. Prompts with another beginning are computed whole. In float32 the values equal those of a plain forward
    pass for each row, up to rounding; in bfloat16 they vary in the second decimal with the batch.
    """

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int] = ()) -> None:
        self.model = model
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        # Recurrent states cannot be cut and copied like keys and values.
        worth = len(prefix) >= SHORTEST_PREFIX and not getattr(model, "_is_stateful", False)
        self._prefix = tuple(prefix) if worth else ()
        self._cache: Any = self._prefix_cache() if worth else None

    @torch.inference_mode()
    def log_probs(self, choices: Sequence[Choice]) -> list[dict[System, float]]:
        """Sum of the log-probabilities of each word's tokens, unmasked, for each choice, in its order."""
        size = len(self._prefix)
        after = [len(choice.prompt) > size and choice.prompt[:size] == self._prefix for choice in choices]
        found: list[dict[System, float]] = [{} for _ in choices]
        for with_prefix in (True, False):
            rows = [row for row, fits in enumerate(after) if fits is with_prefix]
            if rows:
                for row, values in zip(rows, self._score([choices[row] for row in rows], with_prefix), strict=True):
                    found[row] = values
        return found

    def _score(self, choices: Sequence[Choice], with_prefix: bool) -> list[dict[System, float]]:
        plan = _Plan()
        for choice in choices:
            plan.add(choice)
        skip = len(self._prefix) if with_prefix else 0
        read = sorted({position - skip for position in plan.position})
        logits = self._logits(plan.sequences, skip, read)
        column = {position: index for index, position in enumerate(read)}
        columns = [column[position - skip] for position in plan.position]
        device = logits.device
        rows = logits[torch.tensor(plan.sequence_of, device=device), torch.tensor(columns, device=device)]  # (R, V)
        tokens = torch.tensor(plan.token, device=device)
        single = rows.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].double()  # (R,)
        words = torch.zeros(plan.words, dtype=torch.float64, device=device)
        values = iter(words.index_add_(0, torch.tensor(plan.word, device=device), single).tolist())
        return [{system: next(values) for system in choice.words} for choice in choices]

    def _logits(self, sequences: list[tuple[int, ...]], skip: int, read: list[int]) -> torch.Tensor:
        """Logits (N, U, V) at the positions `read`, counted after the `skip` tokens that the cache holds."""
        device = self.model.device
        ids = [torch.tensor(sequence[skip:]) for sequence in sequences]
        batch = pad_sequence(ids, batch_first=True).to(device)
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
        mask = torch.arange(skip + batch.shape[1], device=device)[None, :] < lengths[:, None]
        keep = torch.tensor(read, device=device)
        options: dict[str, Any] = {"logits_to_keep": keep} if self._keeps_logits else {}
        if skip:
            cache = copy.deepcopy(self._cache)
            cache.batch_repeat_interleave(len(sequences))
            options["past_key_values"] = cache
        logits: torch.Tensor = self.model(
            input_ids=batch, attention_mask=mask.long(), use_cache=bool(skip), **options
        ).logits
        return logits if self._keeps_logits else logits[:, keep]

    @torch.inference_mode()
    def _prefix_cache(self) -> Any:
        ids = torch.tensor([self._prefix], device=self.model.device)
        options = {"logits_to_keep": 1} if self._keeps_logits else {}
        return self.model(input_ids=ids, use_cache=True, **options).past_key_values


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

        Raises BadInputError for a row that is too long for the model, and where memory is too small or numbers are not
        finite.
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
        """Tokens that all prompts begin with, found from prompts of different examples."""
        unlike = [Example(id="", question=text, answer=text) for text in ("one", "Two", "3", " four", "'", "\n")]
        prompts = [choice.prompt for choice in self._reader.choices(unlike)]
        return prompts[0][: common_prefix(*prompts)]
