"""Positions of tokens in rows that are padded on the left, counted from a row's own first token.

Without positions, models whose positions are absolute (GPT-2, GPTBigCode, XGLM) count from the first column: a padded
prompt is then another prompt to them than the one that `generate`, which counts from the row's first token, completes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from lorapar.adapter.kinds import positions_of


def number_positions(model: Any) -> None:
    """Let the scoring of tokens (`fused_lm_head`) count positions by the attention mask, as `generate` does.

    TRL 1.16 gives none to its forward passes over prompts padded on the left. Models whose forward pass takes no
    positions (BLOOM, MPT, linear attention) count by the mask themselves, or by distance.
    """
    forward: Callable[..., Any] = model.forward
    if "position_ids" not in inspect.signature(forward).parameters:
        return

    @functools.wraps(forward)
    def numbered(*args: Any, **settings: Any) -> Any:
        mask = settings.get("attention_mask")
        if settings.get("fused_lm_head") and mask is not None and mask.ndim == 2:
            embedded = settings.get("inputs_embeds")
            read = settings["input_ids"] if embedded is None else embedded  # a prefix lies in the cache, not in here
            settings.setdefault("position_ids", positions_of(mask)[:, -read.shape[1] :])
        return forward(*args, **settings)

    model.forward = numbered
