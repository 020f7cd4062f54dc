"""Rollouts by transformers: completions share the forward pass over their prompt, and those that ended need none.

What is sampled is what `generate` samples without either: it sees every row and draws as many random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from transformers import (
    DynamicCache,
    InfNanRemoveLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
)

from lorapar.adapter.kinds import positions_of
from lorapar.basemodel import NO_TOKEN, StopStrings
from lorapar.basemodel.ended_rows import EndedRows, fewest_rows


@contextmanager
def shared_prompts(model: PeftModel, group: int, strings: StopStrings | None = None) -> Iterator[None]:
    """Within the block `model.generate` reads each prompt once, where rows come in groups of `group` equal prompts.

    TRL repeats a prompt for every completion of its group and so computes its keys and values `group` times. Here they
    are computed once and repeated, which gives the same distribution: only the last token of a prompt is read a row.
    Rows that have ended are left out of later passes where that changes no other row (`fewest_rows`). Rows that are not
    in such groups, and models whose state cannot be repeated (found out by trying it once), are generated for as
    before. `strings` end a row too.
    """
    plain = model.generate

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **settings: Any) -> Any:
        """Complete `input_ids` (N, L), left-padded as `attention_mask` (N, L) says."""
        settings["logits_processor"] = LogitsProcessorList([FiniteScores()])
        if strings:
            settings["stopping_criteria"] = strings.criteria(input_ids.shape[1])
        if not _in_groups(input_ids, group) or not repeats(model, input_ids[::group], attention_mask[::group]):
            return plain(input_ids=input_ids, attention_mask=attention_mask, **settings)
        settings["past_key_values"] = _read(model, input_ids[::group, :-1], attention_mask[::group, :-1], group)
        with _without_ended_rows(model, _stops(settings), input_ids.device):
            return plain(input_ids=input_ids, attention_mask=attention_mask, **settings)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate


def _without_ended_rows(model: PeftModel, stops: list[int], device: torch.device) -> AbstractContextManager[None]:
    if not stops:
        return nullcontext()
    autocast = torch.is_autocast_enabled(device.type)
    of_model = _fewest.setdefault(model, {})
    if autocast not in of_model:
        of_model[autocast] = fewest_rows(model, autocast=autocast)
    fewest = of_model[autocast]
    return nullcontext() if fewest is None else EndedRows(torch.tensor(stops, device=device), fewest).left_out(model)


_fewest: WeakKeyDictionary[PeftModel, dict[bool, int | None]] = WeakKeyDictionary()
_tried: WeakKeyDictionary[PeftModel, bool] = WeakKeyDictionary()


def repeats(model: PeftModel, ids: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether what a model keeps of a prompt can be repeated for several rows, and rows be taken out of it again.

    Tried once for each model with the first two of these left-padded prompts (N, L): the next token has to be scored
    as without. States of linear attention and convolutions (Mamba, Qwen3-Next) have no operation that repeats them,
    GPT-1 keeps nothing, and caches of a model's own (DeepSeek-V4, HRM) repeat a part of what they hold.
    """
    if model not in _tried:
        _tried[model] = has_repeatable_cache(model.config) and _as_without(model, ids[:2], mask[:2])
    return _tried[model]


def has_repeatable_cache(config: PretrainedConfig) -> bool:
    """Whether all that a model of this kind says it keeps of a prompt are keys and values of attention."""
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, TypeError, ValueError):  # a model with a cache of its own
        return False
    return not any(hasattr(layer, "conv_states") for layer in layers)


_CLOSE = 0.1
"""Difference of scores, in their standard deviations, that is rounding in a narrow format and no other state."""


@torch.no_grad()
def _as_without(model: PeftModel, ids: torch.Tensor, mask: torch.Tensor) -> bool:
    positions = positions_of(mask)
    try:
        cache = _read(model, ids[:, :-1], mask[:, :-1], 3)
        cache.batch_select_indices((torch.arange(3 * len(ids), device=ids.device) % 3).nonzero()[:, 0])
        last = {"input_ids": ids[:, -1:], "attention_mask": mask, "position_ids": positions[:, -1:]}
        last = {name: values.repeat_interleave(2, 0) for name, values in last.items()}
        base = model.get_base_model()
        found = base(**last, past_key_values=cache, use_cache=True).logits[:, -1].float()
        whole = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1].float()
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # a cache of the model's own that cannot do it: no two say so in the same way
    return bool((found - whole.repeat_interleave(2, 0)).abs().max() <= _CLOSE * whole.std())


def _stops(settings: dict[str, Any]) -> list[int]:
    """The tokens that end a row, as `generate` was told."""
    end_ids = settings.get("eos_token_id", getattr(settings.get("generation_config"), "eos_token_id", None))
    return [] if end_ids is None else [end_ids] if isinstance(end_ids, int) else list(end_ids)


def _in_groups(ids: torch.Tensor, group: int) -> bool:
    """Whether every run of `group` rows is the same prompt, of two tokens at least."""
    if group < 2 or len(ids) % group or ids.shape[1] < 2:
        return False
    return torch.equal(ids, ids[::group].repeat_interleave(group, dim=0))


@torch.no_grad()
def _read(model: PeftModel, ids: torch.Tensor, mask: torch.Tensor, group: int) -> Any:
    """The keys and values of the prompts (N / group, L - 1), each repeated for its group.

    Asked of the base model, which holds the adapter's layers, as `generate` asks it: accelerate wraps the outer model's
    forward in autocast, and a cache in one number format continued in another fails or is not what `generate` computes.
    """
    cache = model.get_base_model()(
        input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=True, logits_to_keep=1
    ).past_key_values
    cache.batch_repeat_interleave(group)
    return cache


class FiniteScores(LogitsProcessor):  # type: ignore[misc]
    """What transformers' `remove_invalid_values` does, looked for by one sum instead of in six passes a token.

    A model that went NaN is caught by its loss; sampling from NaN kills the process on a GPU.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores (N, vocabulary), with zeros and largest numbers in place of NaN and infinities."""
        if bool(scores.sum().isfinite()):
            return scores
        mended: torch.Tensor = InfNanRemoveLogitsProcessor()(input_ids, scores)
        return mended


class LastToken(int):
    """The token that completed a stop string: to TRL, which looks at last tokens alone, one that ends a completion."""

    def __eq__(self, other: object) -> bool:
        return int(self) == other or other == NO_TOKEN

    __hash__ = int.__hash__


def ended_by_text(made: tuple[Any, Any], strings: StopStrings | None) -> tuple[Any, Any]:
    """Completions and log-probabilities up to the first stop string; the token that completes it is marked."""
    if not strings:
        return made
    completions, log_probs = made
    cut = [strings.trim(ids) for ids in completions]
    if log_probs is not None:
        log_probs = [found[: len(ids)] for found, ids in zip(log_probs, cut, strict=True)]
    return [[*ids[:-1], LastToken(ids[-1])] if strings.end(ids) else ids for ids in cut], log_probs
