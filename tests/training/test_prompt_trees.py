"""Completions scored in trees have the log-probabilities, entropies and gradients that they have in rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from trl.trainer.utils import add_fused_lm_head

from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.training.forward import number_positions, score_labelled_only
from lorapar.training.in_float32 import in_float32
from lorapar.training.prompt_trees import PromptTrees, groups_together, plant

TABLE = yaml.safe_load((Path(__file__).parents[1] / "families.yaml").read_text(encoding="utf-8"))
FAMILIES = sorted(TABLE["families"])
TREES = {
    "llama", "qwen2", "qwen3", "mistral", "gemma", "granite", "olmo2", "phi3", "gpt_neox", "falcon", "mixtral",
    "gpt_oss", "deepseek_v3",
}  # fmt: skip
"""Families known to follow a tree's mask."""
NO_TREES = {"bloom", "mpt", "qwen3_next", "jamba"}
"""Positions as a bias of attention, linear attention and convolutions."""


def ready(model: Any) -> Any:
    """The model with TRL's scoring of tokens, as the trainer makes it."""
    if model.base_model is model:  # Llama 4, see lorapar.training.session
        model.base_model_prefix = "model"
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    score_labelled_only(model)
    number_positions(model)
    return model


def in_rows(model: Any, ids: torch.Tensor, mask: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As TRL does it."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-length] = -100
    output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -length:], output.entropy[:, -length:]


def rows(prompts: list[int], group: int, length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of these lengths, each with `group` completions of 1 to `length` tokens; ids and mask."""
    generator = torch.Generator().manual_seed(0)
    longest, count = max(prompts), len(prompts) * group
    ids = torch.randint(3, 250, (count, longest + length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(count):
        first = row // group * group
        ids[row, :longest] = ids[first, :longest]
        mask[row, : longest - prompts[row // group]] = 0
        mask[row, longest + 1 + row % length :] = 0
    return ids, mask


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_scores_the_same_in_trees_or_is_known_not_to(make_family: Any, family: str) -> None:
    model = ready(make_family(family))
    trees = PromptTrees(model)
    with torch.no_grad():
        fits = trees.fits(model, lambda *trial: in_rows(model, *trial)[0])
    assert fits or family not in TREES
    assert not fits or family not in NO_TREES
    if not fits:
        return
    ids, mask = rows([17, 11], group=5)
    expected, found = in_rows(model, ids, mask, 6), trees.score(model, ids, mask, 6)
    assert found is not None
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(TREES | NO_TREES))
@pytest.mark.parametrize("form", ["bfloat16", "autocast"])
def test_what_a_model_does_is_seen_through_the_rounding_of_16_bits(make_family: Any, family: str, form: str) -> None:
    """MPT's positions are wrong by less than what rounding moves other models."""
    model = ready(make_family(family))
    if form == "bfloat16":
        model.to(torch.bfloat16)
    before = {name: (values.dtype, values.data_ptr()) for name, values in model.named_parameters()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
        fits = PromptTrees(model).fits(model, lambda *trial: in_rows(model, *trial)[0])
        assert fits is (family in TREES)
        assert in_rows(model, *rows([9], group=2), 6)[0].isfinite().all(), "it goes on as before"
    assert {name: (values.dtype, values.data_ptr()) for name, values in model.named_parameters()} == before


@pytest.mark.parametrize(
    "form", [{"quantization": "nf4", "compute_dtype": "bfloat16"}, {"quantization": "int8"}], ids=str
)
def test_a_quantised_model_is_tried_with_the_numbers_that_its_weights_stand_for(form: dict[str, str]) -> None:
    config = ModelConfig.model_validate({"name": "builtin:tiny", "dtype": "float32", **form})
    model = ready(load_model(config))
    layer = model.model.layers[0].mlp.up_proj
    states = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = layer(states)
        with in_float32(model):
            wide = layer(states)
            torch.testing.assert_close(layer(states.repeat(5, 1))[:3], wide, atol=1e-5, rtol=1e-5)
        assert torch.equal(layer(states), before)
        torch.testing.assert_close(wide, before, atol=0.05, rtol=0.05)
        assert PromptTrees(model).fits(model, lambda *trial: in_rows(model, *trial)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_scores_what_the_row_alone_scores(make_family: Any, family: str) -> None:
    """Models with absolute positions too, for which a prompt behind padding would be another one."""
    model = ready(make_family(family))
    ids, mask = rows([17, 11, 4], group=2)
    with torch.no_grad():
        padded = in_rows(model, ids, mask, 6)[0]
        for row, kept in enumerate(mask.bool()):
            alone, length = ids[row][kept][None], int(kept[-6:].sum())
            found = in_rows(model, alone, torch.ones_like(alone), length)[0]
            close = 1e-4 if family == "qwen3_next" else 1e-5  # its linear attention adds up in chunks
            torch.testing.assert_close(padded[row, :length], found[0], atol=close, rtol=1e-5)


def test_gradients_are_those_of_rows(make_family: Any) -> None:
    model = ready(make_family("qwen2"))
    ids, mask = rows([17, 11], group=5)
    weights = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    gradients = []
    for score in (lambda: PromptTrees(model).score(model, ids, mask, 6), lambda: in_rows(model, ids, mask, 6)):
        model.zero_grad()
        ((score()[0] * weights).sum() + score()[1].sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-3)


def test_a_window_shorter_than_a_row_and_dropout_keep_rows(make_family: Any) -> None:
    model = ready(make_family("mistral"))
    ids, mask = rows([17, 11], group=2)
    model.config.sliding_window = 16
    assert PromptTrees(model).score(model, ids, mask, 6) is None
    model.config.sliding_window = 64
    assert PromptTrees(model).score(model, ids, mask, 6) is not None
    model.config.attention_dropout = 0.1
    assert not PromptTrees(model).fits(model, lambda *trial: in_rows(model, *trial)[0])


def test_an_empty_completion_scores_nothing(make_family: Any) -> None:
    model = ready(make_family("llama"))
    ids, mask = rows([9], group=3)
    mask[1, 9:] = 0
    found = PromptTrees(model).score(model, ids, mask, 6)
    assert found is not None
    assert not found[0][1].any()
    torch.testing.assert_close(found[0], in_rows(model, ids, mask, 6)[0], atol=1e-4, rtol=1e-4)


def test_a_tree_holds_as_many_completions_as_pay() -> None:
    long = torch.arange(500)
    short = [torch.arange(40)] * 8
    assert [len(tree.branches) for tree in plant([long] * 8, short, width=576)] == [8], "prompts longer than answers"
    trees = plant([torch.arange(8)] * 8, [torch.arange(2000)] * 8, width=64)
    assert len(trees) == 8, "long answers behind a short prompt look past one another for nothing"
    assert sorted(row for tree in trees for row, _ in tree.branches) == list(range(8))


def test_groups_come_together_with_all_that_belongs_to_a_row() -> None:
    prompts = torch.tensor([[1, 2], [3, 4], [5, 6]])[torch.tensor([0, 1, 2, 1, 0, 2])]
    numbers = torch.arange(6)
    batches = [
        {"prompt_ids": part, "advantages": number, "num_items_in_batch": torch.tensor(9.0)}
        for part, number in zip(prompts.split(2), numbers.split(2), strict=True)
    ]
    together = groups_together(batches)
    assert [len(torch.unique(batch["prompt_ids"], dim=0)) for batch in together] == [1, 1, 1]
    assert [batch["num_items_in_batch"].item() for batch in together] == [9.0] * 3
    for batch in together:
        assert torch.equal(prompts[batch["advantages"]], batch["prompt_ids"])


def test_only_labelled_positions_reach_the_head(make_family: Any) -> None:
    plain, picked = make_family("llama"), make_family("llama")
    fields = ("log_probs", "entropy", "is_top1")
    add_fused_lm_head(plain, outputs=fields)
    add_fused_lm_head(picked, outputs=fields)
    score_labelled_only(picked)
    ids, mask = rows([17, 11], group=2)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-6] = -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    theirs, ours = plain(**inputs), picked(**inputs)
    for name in ("loss", "label_mask", *fields):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)
    assert torch.equal(picked(input_ids=ids).logits, plain(input_ids=ids).logits), "without it nothing changes"


@pytest.mark.parametrize("family", ["llama", "llama4_text", "bloom", "mixtral", "qwen3_next"])
def test_short_rows_apart_from_long_ones_have_the_values_of_the_whole_batch(make_family: Any, family: str) -> None:
    whole, split = make_family(family), make_family(family)
    for model, apart in ((whole, False), (split, True)):
        if model.base_model is model:
            model.base_model_prefix = "model"
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        score_labelled_only(model, split_by_length=apart)
    passes = []
    split.base_model.register_forward_pre_hook(
        lambda _module, _args, given: passes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    lengths = torch.tensor([9, 21, 8, 9, 24, 7])
    ids = torch.arange(6 * 26).view(6, 26) * 7 % 90 + 3
    mask = (torch.arange(26) < lengths[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    theirs, ours = whole(**inputs), split(**inputs)
    assert passes == [(4, 9), (2, 24)]
    for name in ("loss", "label_mask", "log_probs", "entropy"):
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-5, rtol=1e-5)
    ours.log_probs.sum().backward()
    theirs.log_probs.sum().backward()
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        rounding = 2e-4 * other.grad.abs().max().item()  # qwen3_next, which adds up in chunks: 3e-5
        torch.testing.assert_close(one.grad, other.grad, atol=rounding, rtol=0)


def test_a_batch_whose_loss_holds_how_evenly_experts_are_used_stays_together(make_family: Any) -> None:
    """A part's evenness is not the batch's."""
    model = make_family("mixtral")
    model.config.output_router_logits = True
    add_fused_lm_head(model)
    score_labelled_only(model, split_by_length=True)
    passes = []
    model.base_model.register_forward_pre_hook(lambda *given: passes.append(given))
    mask = (torch.arange(24) < torch.tensor([24, 5, 24, 5])[:, None]).long()
    ids = torch.full_like(mask, 5)
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), fused_lm_head=True)
    assert len(passes) == 1


@pytest.mark.parametrize("lengths", [[24, 23, 22, 24], [24]])
def test_rows_that_hardly_differ_in_length_stay_together(make_family: Any, lengths: list[int]) -> None:
    model = make_family("llama")
    add_fused_lm_head(model)
    score_labelled_only(model, split_by_length=True)
    passes = []
    model.base_model.register_forward_pre_hook(lambda *given: passes.append(given))
    mask = (torch.arange(24) < torch.tensor(lengths)[:, None]).long()
    ids = torch.full_like(mask, 5)
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), fused_lm_head=True)
    assert len(passes) == 1
