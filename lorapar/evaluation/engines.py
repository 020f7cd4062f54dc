"""Open the engine that the settings name. Each is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar.basemodel import load_model
from lorapar.config import EvaluateConfig, ModelConfig, VllmOptions
from lorapar.config.adapter import kind_of_peft, not_served
from lorapar.evaluation.engine import Engine
from lorapar.progress import Progress
from lorapar.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        progress.say(f"evaluate.backend is vllm, and an adapter {refused}; transformers answers instead")
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
