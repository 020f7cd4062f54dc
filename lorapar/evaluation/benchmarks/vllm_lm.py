"""lm-eval's vLLM model around an engine that runs already, with or without an adapter."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import answer_end

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

_ROWS_AT_ONCE = 256
"""The least number of rows handed over together: the engine batches by itself, and idles where it has too few."""


def adapter_lm(
    llm: Any, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], lora: Any, batch_size: int, *, one_by_one: bool
) -> LM:
    """A model that lm-eval can ask; the engine, its tokenizer and the adapter are those given.

    `stops` are the tokens that end an answer; with `one_by_one`, log-probabilities of prompts are asked for one prompt
    at a time.
    """
    from lm_eval.api.model import CacheHook

    strings = answer_end(tokenizer).strings
    with _vllm_has_a_version():
        from lm_eval.models.vllm_causallms import VLLM

    class AdapterVLLM(VLLM):  # type: ignore[misc]
        """Its base class starts an engine of its own, with one adapter for good."""

        def __init__(self) -> None:
            super(VLLM, self).__init__()
            self.model, self.tokenizer, self.lora_request = llm, tokenizer, lora
            self.batch_size, self._max_length = max(batch_size, _ROWS_AT_ONCE), llm.model_config.max_model_len
            self.data_parallel_size, self.add_bos_token, self.think_end_token = 1, None, None
            self.custom_prefix_token_id, self.enable_thinking, self.hf_chat_template = None, None, None
            self.chat_template_args: dict[str, Any] = {}
            self.truncation_side, self._max_gen_toks = "left", 256

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            asked = {
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": not add_generation_prompt,
            }
            return str(tokenizer.apply_chat_template(chat_history, tokenize=False, **asked))

        @staticmethod
        def modify_gen_kwargs(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str], int]:
            sampling, until, most = VLLM.modify_gen_kwargs(*args, **kwargs)
            return {**sampling, "stop_token_ids": list(stops), "ignore_eos": not stops}, [*until, *strings], most

        def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
            if generate or not one_by_one:
                return super()._model_generate(requests, generate, sampling_params)
            return [super(AdapterVLLM, self)._model_generate([request])[0] for request in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """In portions, each kept under the requests' own names: the base class keeps them under changed ones."""
            hook, found = self.cache_hook, []  # type: ignore[has-type]
            for start in range(0, len(requests), self.batch_size):
                portion = requests[start : start + self.batch_size]
                self.cache_hook = CacheHook(None)
                try:
                    answers = super().generate_until(portion, disable_tqdm=True)
                finally:
                    self.cache_hook = hook
                _keep(hook, portion, answers)
                found += answers
            return found

    return AdapterVLLM()


def _keep(hook: Any, requests: Sequence[Any], answers: Sequence[str]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        hook.add_partial("generate_until", request.args, answer)


@contextmanager
def _vllm_has_a_version() -> Iterator[None]:
    """lm-eval asks for the version of the package `vllm`; builds for a CPU are packaged under another name."""
    asked = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return asked(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            import vllm

            return str(vllm.__version__).partition("+")[0]

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = asked
