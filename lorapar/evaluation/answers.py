"""Answers of one model to held-out rows: generated, judged, and with the loss of the right answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from lorapar.basemodel import StopStrings, answer_end
from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import SYSTEMS, EvaluateConfig, PromptConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.engine import AskedModel
from lorapar.evaluation.generate import batches_by_length
from lorapar.prompts import encode_rows, opens_steps, prompt_ids, prompt_messages
from lorapar.records import Answer, Example, System

HeldoutRow = tuple[Example, System]
"""A held-out example with the system it is asked as and counted under."""


@dataclass(frozen=True)
class Batch:
    """Rows that are generated for together."""

    rows: tuple[HeldoutRow, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each row's prompt."""


def plan_batches(
    rows: Sequence[HeldoutRow], tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig, batch_size: int
) -> list[Batch]:
    """Batches of prompts of like length: the same rows give the same batches, so that answers do not depend on luck."""
    tokens = [tuple(prompt_ids(tokenizer, prompt_messages(row, system, prompts))) for row, system in rows]
    planned = batches_by_length([len(one) for one in tokens], batch_size)
    return [Batch(tuple(rows[n] for n in batch), tuple(tokens[n] for n in batch)) for batch in planned]


@dataclass(frozen=True)
class Generated:
    """What a model made of a row, before it is judged."""

    tokens: list[int]
    """Of its answer, up to and including what ended it."""
    loss: float
    """Mean cross-entropy of the right answer's tokens, in nats."""


@dataclass(frozen=True)
class Asking:
    """How every model of one comparison is asked, and judged."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    settings: EvaluateConfig
    rule: AnswerRule = EXACT
    """How their answers are compared with the references."""

    @cached_property
    def _opened(self) -> bool:
        return opens_steps(self.tokenizer, self.prompts)

    def encoded(self, rows: Sequence[HeldoutRow]) -> list[dict[str, list[int]]]:
        """Prompt and right answer of each row in tokens. Nothing is cut: a loss is that of the whole answer."""
        return [self._encoded(row) for row in rows]

    def judged(self, model: str, rows: Sequence[HeldoutRow], generated: Sequence[Generated]) -> list[Answer]:
        """The answers of a model as records, with their verdicts."""
        return [self._judged(model, row, one) for row, one in zip(rows, generated, strict=True)]

    def _encoded(self, row: HeldoutRow) -> dict[str, list[int]]:
        whole = encode_rows(self.tokenizer, [row], self.prompts, max_length=1 << 30)
        if not whole:
            raise BadInputError(f"held-out row {row[0].id} has an empty answer, so it has no loss; leave it out")
        return whole[0]

    def _judged(self, model: str, row: HeldoutRow, generated: Generated) -> Answer:
        example, system = row
        if not math.isfinite(generated.loss):
            raise TrainingError(
                f"the loss of held-out row {example.id} is not finite for {model}: its weights are broken, or "
                "model.dtype is too narrow for this model"
            )
        tokens = generated.tokens
        text = answer_text(self.tokenizer, tokens)
        read = self.prompts.tags.read(text, opened=self._opened)
        return Answer(
            example_id=example.id,
            system=system,
            model=model,
            text=text,
            tokens=len(tokens),
            strict=strict_match(read, example.reference, self._asked_like(system), self.rule),
            lenient=lenient_match(read, example.reference, self.rule),
            loss=generated.loss,
            cut_off=is_cut_off(self.tokenizer, tokens) or None,
        )

    def _asked_like(self, system: System) -> System:
        """Which of the two systems' rules an answer is judged by: in tags, or taken whole."""
        return SYSTEMS[self.prompts.answers_in_tags(system)]


def answer_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """An answer as it is judged and shown: without special tokens, and without what ends it."""
    return answer_end(tokenizer).cut(str(tokenizer.decode(tokens, skip_special_tokens=True))).strip()


def is_cut_off(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> bool:
    """Whether an answer has no end: its last token is none that ends one, and it has no stop string.

    Whatever cut it off: the most tokens that were asked for, or what the model (in vLLM `max_model_len`) reads at once.
    """
    if not tokens or tokens[-1] in answer_end(tokenizer).token_ids:
        return False
    return not StopStrings(tokenizer).end(tokens)


class Answerer:
    """Asks one model; `name` is what its answers are recorded under."""

    def __init__(self, name: str, model: AskedModel, asking: Asking) -> None:
        self.name = name
        self._model = model
        self._asking = asking

    def answer(self, batch: Batch) -> tuple[list[Answer], list[Generated], float]:
        """Answers to a batch, in its order, as judged and as generated, and the seconds that generating them took."""
        encoded = self._asking.encoded(batch.rows)
        written, losses, seconds = self._model.answer(batch.prompts, encoded, self._asking.settings.max_new_tokens)
        generated = [Generated(tokens, loss) for tokens, loss in zip(written, losses, strict=True)]
        return self._asking.judged(self.name, batch.rows, generated), generated, seconds

    def losses(self, rows: Sequence[HeldoutRow]) -> list[float]:
        """Mean cross-entropy of each row's answer tokens given its prompt, in nats."""
        return self._model.losses(self._asking.encoded(rows))
