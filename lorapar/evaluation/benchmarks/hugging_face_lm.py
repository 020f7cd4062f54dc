"""lm-eval's Hugging Face model around a model that is in memory, whose answers end where they end everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import NO_TOKEN

if TYPE_CHECKING:
    import torch
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase


def model_lm(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
    *,
    batch_size: int,
    mixed_precision_dtype: str | None,
) -> LM:
    """A model that lm-eval can ask; `stops` are the tokens that end an answer."""
    from lm_eval.models.huggingface import HFLM

    class EndingHFLM(HFLM):  # type: ignore[misc]
        """Its base class stops at the tokenizer's end token and at texts, which not every end token has."""

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            return super()._model_generate(*args, eos_token_id=list(stops) or [NO_TOKEN], **kwargs)

    return EndingHFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        mixed_precision_dtype=mixed_precision_dtype,
    )
