"""transformers in this process: one base model, on which PEFT puts adapters in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lorapar.adapter import take_off
from lorapar.adapter.files import load_published
from lorapar.adapter.scoring import mean_answer_loss
from lorapar.basemodel import StopStrings, answer_end
from lorapar.basemodel.by_row import is_exact
from lorapar.basemodel.ended_rows import EndedRows, fewest_rows
from lorapar.errors import BadInputError
from lorapar.evaluation.engine import Encoded
from lorapar.evaluation.generate import generate_greedy, position_table
from lorapar.evaluation.prompt_states import (
    follow,
    kept_rows,
    losses_after,
    read_beginning,
    read_prompts_cache,
    remembered,
)
from lorapar.prompts import IGNORED, collate

if TYPE_CHECKING:
    from lm_eval.api.model import LM

_LOSS_ROWS = 8
"""Rows in one forward pass for the loss: it needs the logits of every position, which are large."""


@contextmanager
def with_adapter(base: PreTrainedModel, folder: Path | None) -> Iterator[torch.nn.Module]:
    """The base model carrying the adapter of a PEFT folder, or (None) bare; the base is given back as it was.

    The adapter is loaded as any program would, by plain PEFT; raises BadInputError where the folder has no safetensors.
    """
    if folder is None:
        yield base
        return
    check_adapter_folder(folder)
    adapted = load_published(base, folder).eval()
    try:
        yield adapted
    finally:
        take_off(adapted)


def check_adapter_folder(folder: Path) -> None:
    """Raises BadInputError where a folder is no adapter."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise BadInputError(f"{folder} is not an adapter folder: it has no adapter_model.safetensors")


class TransformersEngine:
    """A `lorapar.evaluation.engine.Engine`; `autocast`: matrix products are done in bfloat16 whatever the weights."""

    backend: Literal["transformers"] = "transformers"

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, autocast: bool) -> None:
        self._base, self._tokenizer, self._autocast = base, tokenizer, autocast
        self.answers_by_batch = not is_exact(base, autocast=autocast)

    @contextmanager
    def asked(self, adapter: Path | None) -> Iterator[TransformersModel]:
        """The base with an adapter, or by itself."""
        with with_adapter(self._base, adapter) as model:
            if self._autocast and adapter is not None:
                _narrow_lora(model)
            yield TransformersModel(model, self._tokenizer, autocast=self._autocast)


def _narrow_lora(model: torch.nn.Module) -> None:
    """Hold A and B in bfloat16, to which autocast would turn them for every token: the same numbers, less work."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data = parameter.data.to(torch.bfloat16)


class TransformersModel:
    """A `lorapar.evaluation.engine.AskedModel`."""

    def __init__(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, *, autocast: bool = False) -> None:
        self._model, self._tokenizer, self._autocast = model, tokenizer, autocast
        weights = next(model.parameters())
        self._device = weights.device
        self._exact = is_exact(model, autocast=autocast)
        """Whether a row may be computed in two parts; in narrow formats that turns answers."""
        with self._autocast_on():
            self._fewest = fewest_rows(model, autocast=autocast)
        self._leaves_out = self._fewest is not None
        self._pad = int(tokenizer.pad_token_id)
        self._positions = position_table(model)
        self._stops, self._strings = answer_end(tokenizer).token_ids, StopStrings(tokenizer)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        cache: DynamicCache | None = None,
        streamer: Any = None,
    ) -> list[list[int]]:
        """Greedy continuations, as one batch; `cache` and `streamer` as in `generate_greedy`.

        An answer is shorter than `max_new_tokens` where the model's table of positions ends before. Rows for which it
        ends at different lengths are generated for apart, so that none depends on the others; without a cache then.
        """
        parts = self._by_limit(prompts, max_new_tokens)
        if len(parts) > 1:
            written: dict[int, list[int]] = {}
            for rows in parts.values():
                made = self.generate([prompts[row] for row in rows], max_new_tokens, streamer=streamer)
                written.update(zip(rows, made, strict=True))
            return [written[row] for row in range(len(prompts))]
        (limit,) = parts
        with self._autocast_on():
            return generate_greedy(
                self._model,
                prompts,
                stop_ids=self._stops,
                pad_id=self._pad,
                max_new_tokens=limit,
                cache=cache,
                streamer=streamer,
                strings=self._strings,
            )

    def _by_limit(self, prompts: Sequence[Sequence[int]], most: int) -> dict[int, list[int]]:
        """The numbers of the rows, by the longest answer that each can get."""
        found: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            limit = most if self._positions is None else min(most, self._positions - len(prompt))
            found.setdefault(limit, []).append(row)
            if limit < 1:
                self._require_positions(len(prompt) + 1)
        return found

    def adapter_off(self) -> AbstractContextManager[Any]:
        """Within it the base answers by itself; for a model that was asked for with an adapter."""
        off: AbstractContextManager[Any] = cast("Any", self._model).disable_adapter()
        return off

    def answer(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Encoded], max_new_tokens: int
    ) -> tuple[list[list[int]], list[float], float]:
        """Continuations, losses and the seconds that the former took; each prompt is read once for both."""
        self._require_positions(max((len(row["input_ids"]) for row in rows), default=0))
        one_limit = len(self._by_limit(prompts, max_new_tokens)) == 1
        cache = read_prompts_cache(self._model) if one_limit and follow(prompts, rows) else None
        started = time.monotonic()
        if cache is None:
            written = self.generate(prompts, max_new_tokens)
            seconds = time.monotonic() - started
            return written, self.losses(rows), seconds
        if self._exact and self._leaves_out:
            read_beginning(self._model, prompts, cache)
        with remembered(self._model) as states, self._without_ended_rows():
            written = self.generate(prompts, max_new_tokens, cache)
        seconds = time.monotonic() - started
        losses: list[float] = []
        for start in range(0, len(rows), _LOSS_ROWS):
            part = slice(start, start + _LOSS_ROWS)
            with self._autocast_on():
                losses += losses_after(self._model, prompts[part], rows[part], kept_rows(states, part, prompts))
        return written, losses, seconds

    @torch.inference_mode()
    def losses(self, rows: Sequence[Encoded]) -> list[float]:
        """Mean cross-entropy of each row's labelled tokens, in nats."""
        self._require_positions(max((len(row["input_ids"]) for row in rows), default=0))
        found: list[float] = []
        for start in range(0, len(rows), _LOSS_ROWS):
            batch = collate([dict(row) for row in rows[start : start + _LOSS_ROWS]], self._pad)
            fields = {name: tensor.to(self._device) for name, tensor in batch.items()}
            labels = fields.pop("labels")[:, 1:]
            with self._autocast_on():
                logits = self._model(**fields, use_cache=False).logits  # (N, L), behind those of a soft prompt
                logits = logits[:, -labels.shape[1] - 1 : -1]
                found += mean_answer_loss(logits, labels, labels != IGNORED).tolist()
        return found

    def _require_positions(self, tokens: int) -> None:
        if self._positions is not None and tokens > self._positions:
            raise BadInputError(
                f"a row of {tokens} tokens is longer than the model's table of {self._positions} positions; "
                "leave long rows out (data.length.max_tokens)"
            )

    def _without_ended_rows(self) -> AbstractContextManager[None]:
        if self._fewest is None or not (self._leaves_out and self._stops):
            return nullcontext()
        stops = torch.tensor(self._stops, device=self._device)
        return EndedRows(stops, self._fewest).left_out(self._model)

    def _autocast_on(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast)

    def for_lm_eval(self, batch_size: int) -> LM:
        """lm-eval's own Hugging Face model around the model that is here."""
        from lorapar.evaluation.benchmarks.hugging_face_lm import model_lm

        return model_lm(
            self._model,
            self._tokenizer,
            self._stops,
            batch_size=batch_size,
            mixed_precision_dtype="bfloat16" if self._autocast else None,
        )
