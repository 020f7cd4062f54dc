"""Open the engine that the settings name. Each is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar.basemodel import load_model
from lorapar.config import EvaluateConfig, ModelConfig, VllmOptions
from lorapar.evaluation.engine import Engine
from lorapar.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def open_engine(
    model: ModelConfig,
    settings: EvaluateConfig,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Iterable[Path | None],
    progress: Progress,
) -> Iterator[Engine]:
    """The base model in memory, ready for these adapters in turn; its memory is free again afterwards."""
    if settings.backend == "vllm":
        from lorapar.evaluation.vllm_engine import VllmEngine

        folders = [folder for folder in adapters if folder is not None]
        engine = VllmEngine(model, settings.vllm or VllmOptions(), tokenizer, folders, progress)
        try:
            yield engine
        finally:
            engine.close()
        return
    from lorapar.evaluation.transformers_engine import TransformersEngine

    yield TransformersEngine(load_model(model, progress), tokenizer, autocast=model.autocast == "bfloat16")
