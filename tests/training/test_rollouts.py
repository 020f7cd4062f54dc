"""Rollouts that share a prompt are the rollouts one would get without sharing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorapar.adapter import load_adapter
from lorapar.basemodel import load_model
from lorapar.training.rollouts import shared_prompts

GROUP = 4
PAD = 0


@pytest.fixture
def model(start: Any, kit: Any) -> Any:
    """The tiny model with an adapter that has moved from its start."""
    tuned = load_adapter(load_model(kit.TINY), start / "adapter", trainable=True).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tuned


def prompts(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts of these lengths, each `GROUP` times: ids and mask (N * GROUP, longest)."""
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, longest - length :] = torch.arange(5, 5 + length) + 7 * row
        mask[row, longest - length :] = 1
    return ids.repeat_interleave(GROUP, 0), mask.repeat_interleave(GROUP, 0)


def rollouts(model: Any, ids: torch.Tensor, mask: torch.Tensor, **settings: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=True, pad_token_id=PAD, eos_token_id=None,
        return_dict_in_generate=True, output_logits=True, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [(9, 9), (3, 9, 6)])
def test_shared_prompts_give_the_same_scores_and_the_same_completions(model: Any, lengths: tuple[int, ...]) -> None:
    ids, mask = prompts(*lengths)
    plain = rollouts(model, ids, mask)
    with shared_prompts(model, GROUP):
        shared = rollouts(model, ids, mask)
    assert torch.equal(shared.sequences, plain.sequences)
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_each_prompt_is_read_once(model: Any) -> None:
    ids, mask = prompts(3, 9, 6)
    read: list[int] = []
    model.get_base_model().register_forward_pre_hook(
        lambda _module, _args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    with shared_prompts(model, GROUP):
        rollouts(model, ids, mask)
    assert read[0] == 3 * 8, "all but the last token of three prompts"
    assert set(read[1:]) == {3 * GROUP}, "then one token a row"


def test_rows_that_are_no_groups_are_generated_for_as_ever(model: Any) -> None:
    ids, mask = prompts(9, 7)
    ids[1, -1] += 1
    plain = rollouts(model, ids, mask)
    with shared_prompts(model, GROUP):
        assert torch.equal(rollouts(model, ids, mask).sequences, plain.sequences)


def test_the_model_generates_plainly_afterwards(model: Any) -> None:
    with pytest.raises(RuntimeError, match="stop"), shared_prompts(model, GROUP):
        raise RuntimeError("stop")
    assert "generate" not in vars(model)
