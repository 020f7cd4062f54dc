"""Engines: what runs the models of a comparison, transformers in this process or vLLM, and opening the one that is set.

`Engine` and `Model` are what a comparison needs of either; each engine is imported when it is first opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from lorapar.basemodel import load_model
from lorapar.config import EvaluateConfig, ModelConfig, VllmOptions
from lorapar.config.adapter import kind_of_peft, not_served
from lorapar.progress import Progress
from lorapar.records import read_json

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

Encoded = Mapping[str, list[int]]
"""Token ids of a prompt with its answer (`input_ids`), and `labels`: -100 where there is no loss."""


class AskedModel(Protocol):
    """The base model, or the base model with one adapter, ready to be asked."""

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most likely continuation of each prompt (token ids), up to and including its first stop token."""

    def losses(self, rows: Sequence[Encoded]) -> list[float]:
        """Mean cross-entropy of each row's labelled tokens, in nats."""

    def answer(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Encoded], max_new_tokens: int
    ) -> tuple[list[list[int]], list[float], float]:
        """What `generate` and `losses` give for the same rows, and the seconds that generating took."""

    def for_lm_eval(self, batch_size: int) -> LM:
        """The same model as lm-eval asks it."""


class Engine(Protocol):
    """One base model in memory, and adapters for it in turn."""

    @property
    def backend(self) -> Literal["transformers", "vllm"]:
        """What really answers, whatever the settings ask for."""

    @property
    def answers_by_batch(self) -> bool:
        """Whether an answer may depend on the rows that it is computed with, and those are chosen by the caller."""

    def asked(self, adapter: Path | None) -> AbstractContextManager[AskedModel]:
        """The base model with the adapter of a PEFT folder, or (None) by itself.

        Raises BadInputError where the folder holds no safetensors.
        """


def why_not_vllm(adapter: Path) -> str | None:
    """Why vLLM cannot take the adapter in a folder, as the end of a sentence; None where it can, or there is none."""
    path = adapter / "adapter_config.json"
    return not_served(kind_of_peft(read_json(path))) if path.is_file() else None


@contextmanager
def open_engine(
    model: ModelConfig,
    settings: EvaluateConfig,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Iterable[Path | None],
    progress: Progress,
) -> Iterator[Engine]:
    """The base model in memory, ready for these adapters in turn; its memory is free again afterwards.

    Where vLLM cannot take one of them, transformers answers for all: models are compared that one engine has asked.
    """
    folders = [folder for folder in adapters if folder is not None]
    refused = next(filter(None, map(why_not_vllm, folders)), None) if settings.backend == "vllm" else None
    if refused is not None:
        progress.log(f"evaluate.backend is vllm, and an adapter {refused}; transformers answers instead")
    if settings.backend == "vllm" and refused is None:
        from lorapar.evaluation.vllm_engine import VllmEngine

        engine = VllmEngine(model, settings.vllm or VllmOptions(), tokenizer, folders, progress)
        try:
            yield engine
        finally:
            engine.close()
        return
    from lorapar.evaluation.transformers_engine import TransformersEngine

    yield TransformersEngine(load_model(model, progress), tokenizer, autocast=model.autocast == "bfloat16")
