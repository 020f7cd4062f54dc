"""Keys and values of prompts, computed once: for what all prompts of a batch begin with, and for a row's two questions.

A held-out row is asked twice: for the answer that the model writes, and for the loss of the right one. Both begin with
the same prompt, which is mostly the longer part; and prompts of one system begin with the same instruction.

Shapes: N rows, H heads, L tokens of the common beginning, D numbers a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lorapar.adapter import is_prompt
from lorapar.adapter.scoring import mean_answer_loss
from lorapar.evaluation.engine import Encoded
from lorapar.prompts import IGNORED

SHORTEST_BEGINNING = 8
"""A common beginning of fewer tokens is not worth a forward pass of its own."""
States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer."""


def read_prompts_cache(model: torch.nn.Module) -> DynamicCache | None:
    """An empty cache that still has the prompts' states after generation; None where a model of this kind loses them.

    Windows and linear attention do; some models cannot be told the positions of what follows, and GPT-1 keeps nothing.
    With prompt or prefix tuning it holds more than the prompts.
    """
    if is_prompt(model):
        return None
    base: Any = getattr(model, "get_base_model", lambda: model)()
    try:
        cache = DynamicCache(config=base.config)
    except (AttributeError, TypeError, ValueError):  # a model with a cache of its own
        return None
    keeps = cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers)
    takes = {"position_ids", "past_key_values"} <= inspect.signature(base.forward).parameters.keys()
    return cache if keeps and takes else None


def follow(prompts: Sequence[Sequence[int]], rows: Sequence[Encoded]) -> bool:
    """Whether every row goes on from its prompt, token by token, and is labelled only behind it."""
    return all(
        row["input_ids"][: len(prompt)] == list(prompt)
        and len(row["input_ids"]) > len(prompt)
        and all(label == IGNORED for label in row["labels"][: len(prompt)])
        for prompt, row in zip(prompts, rows, strict=True)
    )


@torch.inference_mode()
def read_beginning(model: torch.nn.Module, prompts: Sequence[Sequence[int]], cache: DynamicCache) -> None:
    """Fill an empty cache with the states of what all prompts begin with, where that is worth it: `generate` goes on.

    Each row gets the first columns of its left-padded prompt, so shorter prompts get fewer tokens of the beginning, and
    generation computes no more columns than the longest prompt needs. What lies in padding is masked.
    """
    base: Any = getattr(model, "get_base_model", lambda: model)()
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=next(model.parameters()).device)
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    shared = min(len(list(alike)), int(lengths.min()) - 1)
    if len(prompts) == 1 or shared < SHORTEST_BEGINNING:
        return
    ids = torch.tensor([prompts[0][:shared]], device=lengths.device)
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}
    read = DynamicCache()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=read, use_cache=True, **keep)
    columns = torch.arange(shared, device=lengths.device)
    places = (columns - (lengths.max() - lengths)[:, None]).clamp(min=0)  # (N, L)
    for number, layer in enumerate(read.layers):
        keys, values = (one[0][:, places].transpose(0, 1) for one in (layer.keys, layer.values))  # (N, H, L, D)
        cache.update(keys, values, number)


@contextmanager
def remembered(model: torch.nn.Module) -> Iterator[States]:
    """Within the block the first forward pass with a cache leaves its states in what is yielded: those of prompts."""
    states: States = []

    def remember(_model: Any, _args: Any, output: Any) -> None:
        if not states:
            states.extend((layer.keys, layer.values) for layer in output.past_key_values.layers)

    hook = getattr(model, "get_base_model", lambda: model)().register_forward_hook(remember)
    try:
        yield states
    finally:
        hook.remove()


def kept_rows(states: States, rows: slice, prompts: Sequence[Sequence[int]]) -> DynamicCache:
    """The states of some rows' prompts, padded on the left, without their last token."""
    read = max(map(len, prompts)) - 1
    kept = DynamicCache()
    for number, (keys, values) in enumerate(states):
        kept.update(keys[rows, ..., :read, :], values[rows, ..., :read, :], number)
    return kept


@torch.inference_mode()
def losses_after(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], rows: Sequence[Encoded], states: DynamicCache
) -> list[float]:
    """Mean cross-entropy of each row's labelled tokens, in nats, given the states of its prompt (`kept_rows`)."""
    device = next(model.parameters()).device
    read = int(states.get_seq_length())
    asked = [(len(prompt), row) for prompt, row in zip(prompts, rows, strict=True)]
    width = max(len(row["input_ids"]) - length for length, row in asked)

    def padded(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (width - len(values))]

    # From the last token of the prompt, which predicts the first of the answer, to the last but one.
    ids = torch.tensor([padded(row["input_ids"][length - 1 : -1], 0) for length, row in asked], device=device)
    labels = torch.tensor([padded(row["labels"][length:], IGNORED) for length, row in asked], device=device)
    before = [[0] * (read - length + 1) + [1] * (length - 1) for length, _ in asked]
    behind = [padded([1] * (len(row["input_ids"]) - length), 0) for length, row in asked]
    mask = torch.tensor([one + two for one, two in zip(before, behind, strict=True)], device=device)
    positions = torch.tensor([[length - 1 + place for place in range(width)] for length, _ in asked], device=device)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=states).logits
    losses: list[float] = mean_answer_loss(logits, labels, labels != IGNORED).tolist()
    return losses
