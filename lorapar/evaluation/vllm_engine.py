"""vLLM in this process: one base model, and adapters as LoRA requests in turn.

Base and adapters are never asked in one batch: on a CPU vLLM 0.32 then answers the base's requests with the weights of
the last adapter slot. One slot more than is used keeps it right beside loaded adapters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorapar.adapter import rank_in
from lorapar.basemodel import StopStrings, answer_end
from lorapar.config import ModelConfig, VllmOptions, lora_slot
from lorapar.errors import BadInputError
from lorapar.evaluation.engine import Encoded
from lorapar.progress import Progress
from lorapar.prompts import IGNORED
from lorapar.voting.vllm_teacher import shut_down, start_llm

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

_SLOTS = 2


class VllmEngine:
    """A `lorapar.evaluation.engine.Engine`; `close` gives the memory back."""

    backend: Literal["vllm"] = "vllm"
    answers_by_batch = False
    """vLLM puts batches together itself, and otherwise each time."""

    def __init__(
        self,
        model: ModelConfig,
        options: VllmOptions,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Sequence[Path],
        progress: Progress,
    ) -> None:
        self._tokenizer = tokenizer
        self._numbers = {folder: number for number, folder in enumerate(dict.fromkeys(adapters), 1)}
        lora = {"enable_lora": True, "max_loras": _SLOTS, "max_lora_rank": _slot_rank(adapters)} if adapters else {}
        self._llm = start_llm(model, options, progress, **lora)
        self._stops = answer_end(tokenizer).token_ids

    @contextmanager
    def asked(self, adapter: Path | None) -> Iterator[VllmModel]:
        """The base with an adapter, or by itself."""
        from vllm.lora.request import LoRARequest

        request = None if adapter is None else LoRARequest(str(adapter), self._numbers[adapter], str(adapter))
        yield VllmModel(self._llm, self._tokenizer, self._stops, request)

    def close(self) -> None:
        """Stop the engine and free its memory."""
        shut_down(self._llm)
        del self._llm


class VllmModel:
    """A `lorapar.evaluation.engine.AskedModel`."""

    def __init__(self, llm: Any, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], lora: Any) -> None:
        self._llm, self._tokenizer, self._stops, self._lora = llm, tokenizer, list(stops), lora
        self._strings = StopStrings(tokenizer)
        self._ends = {**ends(stops), **self._strings.for_vllm()}

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations."""
        outputs = self._ask(prompts, temperature=0.0, max_tokens=max_new_tokens, **self._ends)
        return [self._strings.trim(output.outputs[0].token_ids) for output in outputs]

    def losses(self, rows: Sequence[Encoded]) -> list[float]:
        """Mean cross-entropy of each row's labelled tokens, in nats, from the log-probabilities of its tokens."""
        prompts = [row["input_ids"] for row in rows]
        portions = [[prompt] for prompt in prompts] if must_read_one_by_one(self._llm) else [prompts]
        outputs = [
            output
            for portion in portions
            for output in self._ask(portion, temperature=0.0, max_tokens=1, prompt_logprobs=0)
        ]
        return [_mean_loss(row, output.prompt_logprobs) for row, output in zip(rows, outputs, strict=True)]

    def answer(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Encoded], max_new_tokens: int
    ) -> tuple[list[list[int]], list[float], float]:
        """Continuations, losses and the seconds that the former took."""
        started = time.monotonic()
        written = self.generate(prompts, max_new_tokens)
        seconds = time.monotonic() - started
        return written, self.losses(rows), seconds

    def for_lm_eval(self, batch_size: int) -> LM:
        """lm-eval's own vLLM model around the engine that is here."""
        from lorapar.evaluation.benchmarks.vllm_lm import adapter_lm

        one_by_one = must_read_one_by_one(self._llm)
        return adapter_lm(self._llm, self._tokenizer, self._stops, self._lora, batch_size, one_by_one=one_by_one)

    def _ask(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Any]:
        from vllm import SamplingParams, TokensPrompt

        questions = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        try:
            outputs: list[Any] = self._llm.generate(
                questions, SamplingParams(**{"detokenize": False, **sampling}), use_tqdm=False, lora_request=self._lora
            )
        except ValueError as error:
            raise BadInputError(f"vLLM refuses a row: {' '.join(str(error).split())[:300]}") from error
        return outputs


def ends(stops: Sequence[int]) -> dict[str, Any]:
    """What tells vLLM the tokens that end an answer; without any it would stop at those that the model names."""
    return {"stop_token_ids": list(stops), "ignore_eos": not stops}


def must_read_one_by_one(llm: Any) -> bool:
    """Whether log-probabilities of prompts can be had for one prompt at a time only.

    On a CPU, vLLM 0.32 with LoRA fails on a batch of them: it expects one row of logits for each request.
    """
    from vllm.platforms import current_platform

    return current_platform.is_cpu() and llm.llm_engine.vllm_config.lora_config is not None


def _mean_loss(row: Encoded, log_probs: Sequence[Any]) -> float:
    places = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
    return -math.fsum(log_probs[place][row["input_ids"][place]].logprob for place in places) / len(places)


def _slot_rank(adapters: Sequence[Path]) -> int:
    """The smallest slot that holds every adapter; raises BadInputError where none does."""
    from lorapar.evaluation.transformers_engine import check_adapter_folder

    for folder in adapters:
        check_adapter_folder(folder)
    return lora_slot(max(map(rank_in, adapters)), "evaluate.backend")
