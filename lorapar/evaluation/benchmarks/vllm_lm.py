"""lm-eval's vLLM model around an engine that runs already, with or without an adapter."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

_ROWS_AT_ONCE = 256
"""The least number of rows handed over together: the engine batches by itself, and idles where it has too few."""


def adapter_lm(
    llm: Any, tokenizer: PreTrainedTokenizerBase, lora_request: Any, batch_size: int, *, one_by_one: bool
) -> LM:
    """A model that lm-eval can ask; the engine, its tokenizer and the adapter are those given.

    `one_by_one`: log-probabilities of prompts are asked for one prompt at a time.
    """
    with _vllm_has_a_version():
        from lm_eval.models.vllm_causallms import VLLM

    class AdapterVLLM(VLLM):  # type: ignore[misc]
        """Its base class starts an engine of its own, with one adapter for good."""

        def __init__(self) -> None:
            super(VLLM, self).__init__()
            self.model, self.tokenizer, self.lora_request = llm, tokenizer, lora_request
            self.batch_size = max(batch_size, _ROWS_AT_ONCE)
            self.data_parallel_size, self.add_bos_token, self.think_end_token = 1, None, None
            self.custom_prefix_token_id, self.enable_thinking, self.hf_chat_template = None, None, None
            self.chat_template_args: dict[str, Any] = {}
            self.truncation_side, self._max_gen_toks = "left", 256
            self._max_length = llm.model_config.max_model_len

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return str(
                tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        def _model_generate(
            self, requests: list[list[int]], generate: bool = False, sampling_params: Any = None
        ) -> Any:
            if generate or not one_by_one:
                return super()._model_generate(requests, generate, sampling_params)
            return [super(AdapterVLLM, self)._model_generate([request])[0] for request in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """In portions, each kept under the requests' own names: the base class keeps them under changed ones."""
            from lm_eval.api.model import CacheHook

            hook: CacheHook = self.cache_hook  # type: ignore[has-type]
            found: list[str] = []
            for start in range(0, len(requests), self.batch_size):
                portion = requests[start : start + self.batch_size]
                self.cache_hook = CacheHook(None)
                try:
                    answers = super().generate_until(portion, disable_tqdm=True)
                finally:
                    self.cache_hook = hook
                for request, answer in zip(portion, answers, strict=True):
                    hook.add_partial("generate_until", request.args, answer)
                found += answers
            return found

    return AdapterVLLM()


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
