"""Greedy generation in batches: left padding, rows of like length together, a stop at the end of the turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from lorapar.adapter.layout import stands_apart
from lorapar.basemodel import NO_TOKEN, StopStrings

_POSITION_TABLES = ("wpe", "embed_positions", "positions_embed", "position_embedding", "position_embeddings")
"""Names of these tables in transformers' models."""


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of rows of like length, the longest first; the same lengths give the same batches."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def position_table(model: torch.nn.Module) -> int | None:
    """How many positions a model has a table for, learned (GPT-2, OPT) or fixed (GPT-J); None where it has no table.

    With one token more the table ends: an IndexError on a CPU, and on a GPU an error that ends the process. That of a
    vision tower is of its images' patches, and says nothing of texts.
    """
    lengths = []
    for name, module in model.named_modules():
        if stands_apart(name):
            continue
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            lengths.append(module.num_embeddings - getattr(module, "offset", 0))
        for table in ("embed_positions", "pos_encoding"):
            held = getattr(module, table, None)
            lengths += [len(held)] if isinstance(held, torch.Tensor) else []
    return min(lengths, default=None)


@torch.inference_mode()
def generate_greedy(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    cache: DynamicCache | None = None,
    streamer: Any = None,
    strings: StopStrings | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter.
        prompts: token ids of each row, not padded.
        stop_ids: tokens that end an answer; without any, every answer has `max_new_tokens`.
        pad_id: token that fills short rows; may equal a stop token, because masks come from lengths.
        max_new_tokens: longest answer, in tokens.
        cache: an empty one, which is filled with keys and values of prompts (padded on the left) and answers.
        streamer: transformers' `put` and `end`, handed each token as it comes; only for a single prompt.
        strings: texts that end an answer too.

    Returns:
        New token ids of each row, up to and including its first stop token or the token that completes a stop string.
    """
    longest = max(map(len, prompts))
    device = next(model.parameters()).device
    input_ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
    config = _greedy_config(stop_ids, pad_id, max_new_tokens)
    filled: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
    if streamer is not None:
        filled["streamer"] = streamer
    if strings:
        filled["stopping_criteria"] = strings.criteria(longest)
    output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config, **filled)  # type: ignore[operator]
    answers = [_until_stop(row, set(stop_ids)) for row in output[:, longest:].tolist()]
    return [strings.trim(row) for row in answers] if strings else answers


def _greedy_config(stop_ids: Sequence[int], pad_id: int, max_new_tokens: int) -> GenerationConfig:
    # Every value is written out: transformers fills what is left open from the model's own settings, and a model that
    # ships a repetition penalty would then not be greedy.
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids) or [NO_TOKEN],
        pad_token_id=pad_id,
        use_cache=True,
    )


def _until_stop(tokens: list[int], stops: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]
