"""Answers of one model to held-out rows: generated, judged, and with the loss of the right answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorapar.adapter.scoring import mean_answer_loss
from lorapar.config import EvaluateConfig, PromptConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.generate import batches_by_length, generate_greedy, stop_tokens
from lorapar.prompts import IGNORED, collate, encode_rows, prompt_ids, prompt_messages
from lorapar.records import Answer, Example, System

HeldoutRow = tuple[Example, System]
"""A held-out example with the system it is asked as and counted under."""
_LOSS_ROWS = 8
"""Rows in one forward pass for the loss: it needs the logits of every position, which are large."""


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


@contextmanager
def with_adapter(base: PreTrainedModel, folder: Path | None) -> Iterator[torch.nn.Module]:
    """The base model carrying the adapter of a PEFT folder, or (None) bare; the base is given back as it was.

    The adapter is loaded as any program would, by plain PEFT; raises BadInputError where the folder has no safetensors.
    """
    if folder is None:
        yield base
        return
    if not (folder / "adapter_model.safetensors").is_file():
        raise BadInputError(f"{folder} is not an adapter folder: it has no adapter_model.safetensors")
    adapted = PeftModel.from_pretrained(base, str(folder)).eval()
    try:
        yield adapted
    finally:
        adapted.unload()


@dataclass(frozen=True)
class Asking:
    """How every model of one comparison is asked."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    settings: EvaluateConfig
    autocast: bool
    """Whether matrix products are done in bfloat16 whatever the weights are held in."""


class Answerer:
    """Asks one model; `name` is what its answers are recorded under."""

    def __init__(self, name: str, model: torch.nn.Module, asking: Asking) -> None:
        self.name = name
        self._model = model
        self._asking = asking
        self._device = next(model.parameters()).device
        self._pad = int(asking.tokenizer.pad_token_id)
        self._stops = stop_tokens(model, asking.tokenizer)

    def answer(self, batch: Batch) -> tuple[list[Answer], float]:
        """Answers to a batch, in its order, and the seconds that generating them took."""
        started = time.monotonic()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._asking.autocast):
            written = generate_greedy(
                self._model,
                batch.prompts,
                stop_ids=self._stops,
                pad_id=self._pad,
                max_new_tokens=self._asking.settings.max_new_tokens,
            )
            seconds = time.monotonic() - started
            losses = self.losses(batch.rows)
        answers = [self._judged(*one) for one in zip(batch.rows, written, losses, strict=True)]
        return answers, seconds

    @torch.inference_mode()
    def losses(self, rows: Sequence[HeldoutRow]) -> list[float]:
        """Mean cross-entropy of each row's answer tokens given its prompt, in nats."""
        encoded = [self._encoded(row) for row in rows]
        found: list[float] = []
        for start in range(0, len(encoded), _LOSS_ROWS):
            batch = collate(encoded[start : start + _LOSS_ROWS], self._pad)
            fields = {name: tensor.to(self._device) for name, tensor in batch.items()}
            labels = fields.pop("labels")[:, 1:]
            logits = self._model(**fields, use_cache=False).logits[:, :-1]
            found += mean_answer_loss(logits, labels, labels != IGNORED).tolist()
        return found

    def _encoded(self, row: HeldoutRow) -> dict[str, list[int]]:
        # Nothing is cut here: a held-out loss is that of the whole answer.
        whole = encode_rows(self._asking.tokenizer, [row], self._asking.prompts, max_length=1 << 30)
        if not whole:
            raise BadInputError(f"held-out row {row[0].id} has an empty answer, so it has no loss; leave it out")
        return whole[0]

    def _judged(self, row: HeldoutRow, tokens: list[int], loss: float) -> Answer:
        example, system = row
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of held-out row {example.id} is not finite for {self.name}: its weights are broken, or "
                "model.dtype is too narrow for this model"
            )
        text = self._asking.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(
            example_id=example.id,
            system=system,
            model=self.name,
            text=text,
            tokens=len(tokens),
            strict=strict_match(text, example.reference, system),
            lenient=lenient_match(text, example.reference),
            loss=loss,
        )
