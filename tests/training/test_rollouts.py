"""Rollouts that share a prompt are the rollouts one would get without sharing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import InfNanRemoveLogitsProcessor

from lorapar.adapter import AdapterSettings, attach, load_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.training.rollouts import FiniteScores, repeats, shared_prompts

GROUP = 4
PAD = 0


@pytest.fixture
def model(start: Any, kit: Any) -> Any:
    """The tiny model with an adapter that has moved from its start."""
    return moved(kit.TINY, start)


def moved(config: ModelConfig, start: Any) -> Any:
    tuned = load_adapter(load_model(config), start / "adapter", trainable=True).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    assert repeats(tuned, *prompts(3, 3))  # tried once a model: what the tests count is what comes after
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
    usual = {"max_new_tokens": 12, "do_sample": True, "pad_token_id": PAD, "eos_token_id": None}
    return model.generate(
        input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_logits=True, **(usual | settings)
    )


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


STOPS = list(range(0, 259, 7))
"""So many tokens that rows of a random model end at different steps."""


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("lengths", [(9, 9), (3, 9, 6)])
def test_rows_that_ended_are_not_computed_and_the_others_are_what_they_were(
    model: Any, lengths: tuple[int, ...], do_sample: bool
) -> None:
    ids, mask = prompts(*lengths)
    settings = {"max_new_tokens": 24, "do_sample": do_sample, "eos_token_id": STOPS}
    plain = rollouts(model, ids, mask, **settings)
    after = torch.get_rng_state()
    read: list[int] = []
    hook = model.get_base_model().model.register_forward_pre_hook(
        lambda _module, _args, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    with shared_prompts(model, GROUP):
        shared = rollouts(model, ids, mask, **settings)
    hook.remove()
    assert torch.equal(shared.sequences, plain.sequences)
    assert torch.equal(torch.get_rng_state(), after), "as many random numbers were drawn"
    steps = read[1:]
    assert steps == sorted(steps, reverse=True)
    if do_sample:
        assert steps[-1] < steps[0] == len(ids)


@pytest.mark.parametrize(("dtype", "autocast"), [("float32", True), ("float16", False), ("float16", True)])
@pytest.mark.parametrize("lengths", [(9, 9), (3, 9, 6)])
def test_in_narrow_formats_no_row_is_left_by_itself(
    start: Any, kit: Any, lengths: tuple[int, ...], dtype: str, autocast: bool
) -> None:
    """In bfloat16 and float16 a single row is summed up in another order, on some processors any number of rows."""
    ids, mask = prompts(*lengths)
    model = moved(kit.TINY.model_copy(update={"dtype": dtype}), start)
    settings = {"max_new_tokens": 24, "eos_token_id": STOPS}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = rollouts(model, ids, mask, **settings)
        read: list[int] = []
        model.get_base_model().model.register_forward_pre_hook(
            lambda _module, _args, named: read.append(len(named["input_ids"])), with_kwargs=True
        )
        with shared_prompts(model, GROUP):
            shared = rollouts(model, ids, mask, **settings)
    assert torch.equal(shared.sequences, plain.sequences)
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        going_on = ours.abs().sum(-1) > 0
        assert torch.equal(ours[going_on], theirs[going_on])
    assert min(read[1:]) >= 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prompts_are_read_in_the_number_format_that_generate_goes_on_in(start: Any, kit: Any, dtype: str) -> None:
    """Which is not that of the outer model's forward: accelerate puts autocast there, and `generate` goes past it."""
    model = moved(kit.TINY.model_copy(update={"dtype": dtype}), start)
    ids, mask = prompts(3, 9, 6)
    with shared_prompts(model, GROUP):
        expected = rollouts(model, ids, mask)
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
        found = rollouts(model, ids, mask)
    assert torch.equal(found.sequences, expected.sequences)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.logits, expected.logits, strict=True))


@pytest.mark.parametrize("family", ["gemma3_text", "mistral", "gpt2", "deepseek_v3", "bloom", "gpt_oss"])
def test_families_sample_the_same_where_rows_end(make_family: Any, family: str) -> None:
    base = make_family(family)
    if hasattr(base.config, "sliding_window"):
        base.config.sliding_window = 8
    tuned = attach(base, AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0).eval()
    ids, mask = prompts(3, 12, 6)
    settings = {"max_new_tokens": 16, "eos_token_id": STOPS}
    plain = rollouts(tuned, ids, mask, **settings)
    with shared_prompts(tuned, GROUP):
        assert torch.equal(rollouts(tuned, ids, mask, **settings).sequences, plain.sequences)


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


@pytest.mark.parametrize("broken", [(), (float("nan"),), (float("inf"), float("nan")), (float("-inf"),)])
def test_scores_that_are_no_numbers_are_mended_as_transformers_does(broken: tuple[float, ...]) -> None:
    scores = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    scores[1, : len(broken)] = torch.tensor(broken)
    expected = InfNanRemoveLogitsProcessor()(torch.zeros(2, 1), scores)
    found = FiniteScores()(torch.zeros(2, 1, dtype=torch.long), scores)
    assert torch.equal(found, expected)
    assert found.isfinite().all()
    assert (found is scores) is (not broken), "numbers are left alone"


def test_a_model_that_went_nan_is_sampled_from_without_an_error(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    ids, mask = prompts(9, 7)
    for group in (GROUP, 1):
        with shared_prompts(model, group):
            assert len(rollouts(model, ids, mask, do_sample=True).sequences) == len(ids)
