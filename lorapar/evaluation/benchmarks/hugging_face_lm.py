"""lm-eval's Hugging Face model around a model that is in memory, whose answers end where they end everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import NO_TOKEN, answer_end

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

    end = answer_end(tokenizer)

    class EndingHFLM(HFLM):  # type: ignore[misc]
        """Its base class stops at the tokenizer's end token and at texts, which not every end token has."""

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            ends = list(stops) or [NO_TOKEN]
            return super()._model_generate(context, max_length, [*stop, *end.strings], eos_token_id=ends, **kwargs)

        def tok_decode(self, *args: Any, **kwargs: Any) -> str:
            return end.before_string(str(super().tok_decode(*args, **kwargs)))

    return EndingHFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        mixed_precision_dtype=mixed_precision_dtype,
    )
