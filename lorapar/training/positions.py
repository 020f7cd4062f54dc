"""Positions of tokens in rows that are padded on the left, counted from a row's own first token.

Without positions, models whose positions are absolute (GPT-2, GPTBigCode, XGLM) count from the first column: a padded
prompt is then another prompt to them than the one that `generate`, which counts from the row's first token, completes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """(N, L) positions by a mask (N, L) that is 0 in padding: 0 for a row's first token; padding has any."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


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
            settings.setdefault("position_ids", positions_of(mask))
        return forward(*args, **settings)

    model.forward = numbered
