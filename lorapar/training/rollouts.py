"""Rollouts by transformers: the completions of one prompt share the forward pass over the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import DynamicCache, PretrainedConfig


@contextmanager
def shared_prompts(model: PeftModel, group: int) -> Iterator[None]:
    """Within the block `model.generate` reads each prompt once, where rows come in groups of `group` equal prompts.

    TRL repeats a prompt for every completion of its group and so computes its keys and values `group` times. Here they
    are computed once and repeated, which gives the same distribution: only the last token of a prompt is read a row.
    Rows that are not in such groups, and models whose state cannot be repeated, are generated for as before.
    """
    plain, shared = model.generate, has_repeatable_cache(model.config)

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **settings: Any) -> Any:
        """Complete `input_ids` (N, L), left-padded as `attention_mask` (N, L) says."""
        if shared and _in_groups(input_ids, group):
            settings["past_key_values"] = _read(model, input_ids[::group, :-1], attention_mask[::group, :-1], group)
        return plain(input_ids=input_ids, attention_mask=attention_mask, **settings)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate


def has_repeatable_cache(config: PretrainedConfig) -> bool:
    """Whether all that a model of this kind keeps of a prompt are keys and values of attention.

    The states of linear attention and convolutions (Mamba, Qwen3-Next) have no operation that repeats them.
    """
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, TypeError, ValueError):  # a model with a cache of its own
        return False
    return not any(hasattr(layer, "conv_states") for layer in layers)


def _in_groups(ids: torch.Tensor, group: int) -> bool:
    """Whether every run of `group` rows is the same prompt, of two tokens at least."""
    if group < 2 or len(ids) % group or ids.shape[1] < 2:
        return False
    return torch.equal(ids, ids[::group].repeat_interleave(group, dim=0))


@torch.no_grad()
def _read(model: PeftModel, ids: torch.Tensor, mask: torch.Tensor, group: int) -> Any:
    """The keys and values of the prompts (N / group, L - 1), each repeated for its group."""
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    cache = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
    ).past_key_values
    cache.batch_repeat_interleave(group)
    return cache
