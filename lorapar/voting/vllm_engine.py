"""vLLM in this process, asked one thing: how likely are these next tokens after this prompt, before any mask.

Questions go through the engine's own queue, which is kept full, and answers come out as they are ready: nothing waits
for the slowest of a batch, and a stop loses no more than what is on the way. `prompt_logprobs` would compute every
position of the prompt and could not use the prefix cache; with `structured_outputs` log-probabilities come after the
mask.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, get_args

from lorapar.basemodel.load import model_folder
from lorapar.basemodel.number_format import require_settled
from lorapar.basemodel.shape import config_values
from lorapar.config import ModelConfig, VllmOptions
from lorapar.errors import BadInputError
from lorapar.progress import Progress

WAITING_QUESTIONS = 2048
"""Questions handed to the engine ahead of their answers: several times what it runs at once."""


K = TypeVar("K")


class EngineError(Exception):
    """The engine stopped working; the message says why."""


@dataclass(frozen=True)
class NextTokens(Generic[K]):
    """One question to the model: the log-probabilities of `wanted` as the token after `prompt`."""

    key: K
    prompt: tuple[int, ...]
    wanted: tuple[int, ...]


class VllmEngine:
    """A model that vLLM holds in memory; `close` gives the memory back."""

    def __init__(self, model: ModelConfig, options: VllmOptions, progress: Progress) -> None:
        self.llm = start_llm(model, options, progress)
        self.longest: int = self.llm.model_config.max_model_len
        """Tokens that fit into the model, prompt and answer together."""
        from vllm.inputs import tokens_input

        self._tokens_input = tokens_input
        # The engine copies what it is asked with; making it anew for each question would take longer than the copy.
        self._asking_for = cache(_asking_for)

    def log_probs(self, questions: Iterable[NextTokens[K]]) -> Iterator[tuple[K, dict[int, float]]]:
        """(key, log-probability of each wanted token) for every question, in the order they are answered.

        Log-probabilities are natural, over the whole vocabulary. Raises EngineError where the engine gives up.
        """
        waiting = iter(questions)
        asked: dict[str, NextTokens[K]] = {}
        number = 0
        try:
            while True:
                while len(asked) < WAITING_QUESTIONS and (question := next(waiting, None)) is not None:
                    number += 1
                    asked[str(number)] = question
                    self._add(str(number), question)
                if not asked:
                    return
                for output in self._step():
                    if output.finished:
                        question = asked.pop(output.request_id)
                        yield question.key, _read(output, question)
        finally:
            if asked:
                self.llm.llm_engine.abort_request(list(asked))

    def close(self) -> None:
        """Stop the engine and free its memory; the object cannot be used afterwards."""
        shut_down(self.llm)
        del self.llm

    def _add(self, name: str, question: NextTokens[Any]) -> None:
        prompt = self._tokens_input(list(question.prompt))
        self.llm.llm_engine.add_request(name, prompt, self._asking_for(question.wanted))

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self.llm.llm_engine.step()
        except Exception as error:
            raise EngineError(f"vLLM stopped working: {_first_line(error)}") from error
        return outputs


def shut_down(llm: Any) -> None:
    """Stop an engine and free its memory."""
    import torch

    llm.llm_engine.engine_core.shutdown()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_ANSWERS_OTHERWISE = {"gpt_bigcode"}
"""Types with LoRA on which vLLM 0.32 answers otherwise than PEFT, without a word (tried with tiny random models)."""


def start_llm(model: ModelConfig, options: VllmOptions, progress: Progress, **more: Any) -> Any:
    """A vLLM engine with this model; `more` are settings of the engine besides. Raises BadInputError."""
    require_settled(model)
    if more.get("enable_lora"):
        _require_equal_answers(model)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    _require_vllm()
    from vllm import LLM

    folder = str(model_folder(model, progress))
    try:
        return LLM(
            model=folder,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            tensor_parallel_size=options.tensor_parallel_size,
            quantization=options.quantization,  # type: ignore[arg-type, unused-ignore]
            max_model_len=options.max_model_len,
            gpu_memory_utilization=options.gpu_memory_utilization,
            enable_prefix_caching=True,
            disable_log_stats=True,
            **more,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise BadInputError(f"vLLM cannot start with {model.name}: {_first_line(error)}") from error


def _require_equal_answers(model: ModelConfig) -> None:
    kind = config_values(model).get("model_type")
    if kind in _ANSWERS_OTHERWISE:
        raise BadInputError(
            f"{model.name}: vLLM answers with adapters of {kind} otherwise than PEFT does; set evaluate.backend and "
            "rl.rollouts to transformers"
        )


def _require_vllm() -> None:
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"vLLM is asked for and needs {error.name}, which is not installed here; use an environment (or the image) "
            "with vLLM, or transformers in its place"
        ) from error


def slot_rank(rank: int) -> int | None:
    """The smallest size of a LoRA slot, of those vLLM has, that holds adapters up to a rank; None where none does."""
    _require_vllm()
    from vllm.config.lora import MaxLoRARanks

    return min((size for size in get_args(MaxLoRARanks) if size >= rank), default=None)


def _asking_for(wanted: tuple[int, ...]) -> Any:
    """One token, and the log-probabilities of these tokens in its place."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(wanted), detokenize=False)


def _read(output: Any, question: NextTokens[Any]) -> dict[int, float]:
    found = output.outputs[0].logprobs[0]
    return {token: found[token].logprob for token in question.wanted}


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
