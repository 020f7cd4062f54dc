"""Scores against the paper's formula, written as a plain double loop with autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lorapar.adapter import (
    ScoreAccumulator,
    load_scores,
    lora_parameters,
    save_scores,
    score_elements,
    trainable_slice,
)
from lorapar.errors import BadInputError, StorageError, TrainingError


def plain_scores(model, examples, rank):
    """I = |g phi - 0.5 F phi^2|, one example at a time, nothing padded, every gradient from autograd."""
    parameters = lora_parameters(model)
    gradients = {name: [] for name in parameters}
    model.eval()
    for ids, labels in examples:
        logits = model(input_ids=ids[None]).logits[0]
        loss = F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            gradients[name].append(gradient.double())
    scores = {}
    for name, phi in parameters.items():
        g = sum(gradients[name]) / len(examples)
        fisher = sum(gradient**2 for gradient in gradients[name]) / len(examples)
        wide = phi.detach().double()
        scores[name] = trainable_slice(name, (g * wide - 0.5 * fisher * wide**2).abs(), rank)
    return scores


def largest_error(ours, plain):
    """Largest difference of any element, relative to the largest score of its tensor."""
    return max(((ours[n].double() - plain[n]).abs().max() / plain[n].max()).item() for n in plain)


@pytest.mark.parametrize("init", ["residual", "paper"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize(("size", "side"), [(1, "right"), (3, "right"), (3, "left")])
def test_scores_equal_the_plain_double_loop(make_adapter, examples, batched, family, init, size, side):
    model = make_adapter(rank=4, init=init, family=family)
    scores = score_elements(model, batched(examples, size, side))
    plain = plain_scores(model, examples, 4)
    assert scores.keys() == plain.keys()
    assert all(scores[n].dtype == torch.float32 and scores[n].shape == plain[n].shape for n in plain)
    assert largest_error(scores, plain) < 1e-5


def test_every_element_agrees_to_1e5_relative_when_rounding_is_out_of_the_way(make_adapter, examples, batched):
    model = make_adapter(rank=4).double()
    scores, plain = score_elements(model, batched(examples, 3)), plain_scores(model, examples, 4)
    for name in plain:
        assert torch.allclose(scores[name].double(), plain[name], rtol=1e-5, atol=0)


def test_the_squared_batch_gradient_would_be_another_number(make_adapter, examples, batched):
    """The difference the per-example gradients are for: F from a batch gradient of three examples."""
    model = make_adapter(rank=4)
    few = examples[:3]
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    accumulator = ScoreAccumulator(model)
    accumulator.update(next(iter(batched(few, 3))))
    state = accumulator.state_dict()
    fisher = state[f"square/{name}"] / 3
    assert not torch.allclose(fisher, (state[f"gradient/{name}"] / 3) ** 2, rtol=0.1)


def test_a_matrix_that_reads_another_table_than_the_embeddings_is_scored_too(make_adapter, examples, batched):
    """No gradient reaches the embeddings from there."""
    model = make_adapter(rank=4)
    beside = model.base_model.model.model.layers[0].self_attn.k_proj
    beside.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    scores, plain = score_elements(model, batched(examples, 3)), plain_scores(model, examples, 4)
    assert min(score.max().item() for score in scores.values()) > 0
    assert largest_error(scores, plain) < 1e-5


def test_prompt_and_padding_do_not_count(make_adapter, examples, batched):
    model = make_adapter()
    batch = next(iter(batched(examples[:3], 3)))
    changed = {key: value.clone() for key, value in batch.items()}
    changed["input_ids"][changed["attention_mask"] == 0] = 42  # other padding tokens
    first, second = score_elements(model, [batch]), score_elements(model, [changed])
    assert all(torch.allclose(first[name], second[name], rtol=1e-6) for name in first)
    unmasked = dict(batch, labels=torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100))
    third = score_elements(model, [unmasked])
    assert not torch.allclose(first[name := next(iter(first))], third[name], rtol=0.01)


def test_the_output_head_sees_answer_positions_alone(make_adapter, examples, batched):
    model = make_adapter(rank=4)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _head, inputs, _output: seen.append(inputs[0].shape))
    batch = next(iter(batched(examples, 3)))
    score_elements(model, [batch])
    assert seen == [(1, int((batch["labels"][:, 1:] != -100).sum()), 64)]
    score_elements(model, [{**batch, "labels": batch["input_ids"].clone()}])
    assert (
        model(input_ids=batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape
    )  # and all of them afterwards


def test_dropout_is_off_and_the_models_state_comes_back(make_adapter, examples, batched):
    still, model = make_adapter(dropout=0.0), make_adapter(dropout=0.5).train()
    model.base_model.model.model.layers[0].eval()  # a mixture of modes
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in lora_parameters(model).values():
        parameter.grad = torch.ones_like(parameter)
    scores, expected = (score_elements(m, batched(examples, 3)) for m in (model, still))
    assert all(torch.equal(scores[name], expected[name]) for name in expected)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in lora_parameters(model).values())
    assert not any(m._forward_hooks for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding))


def test_state_comes_back_and_sums_stay_after_an_error(make_adapter, examples, batched):
    model = make_adapter().train()
    accumulator = ScoreAccumulator(model)
    accumulator.update(next(iter(batched(examples[:2], 2))))
    before = accumulator.state_dict()
    ids, labels = examples[2]
    empty = (ids, torch.full_like(labels, -100))
    with pytest.raises(BadInputError, match="example 3 has no answer token"):
        accumulator.update(next(iter(batched([examples[3], empty], 2))))
    assert all(torch.equal(before[key], value) for key, value in accumulator.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in lora_parameters(model).values())


def test_an_answer_only_in_the_first_position_is_no_answer(make_adapter):
    """The first token is never predicted, so a label there alone leaves no loss."""
    labels = torch.full((1, 4), -100)
    labels[0, 0] = 7
    batch = {"input_ids": torch.tensor([[7, 8, 9, 10]]), "attention_mask": torch.ones(1, 4).long(), "labels": labels}
    with pytest.raises(BadInputError, match="example 0 has no answer token"):
        score_elements(make_adapter(), [batch])


def test_a_resumed_accumulator_gives_the_same_scores(make_adapter, examples, batched):
    model = make_adapter()
    straight = score_elements(model, batched(examples, 2))
    first = ScoreAccumulator(model)
    parts = list(batched(examples, 2))
    for batch in parts[:2]:
        first.update(batch)
    second = ScoreAccumulator(model)
    second.load_state_dict(first.state_dict())
    for batch in parts[2:]:
        second.update(batch)
    assert second.examples == 7
    assert all(torch.equal(second.scores()[name], straight[name]) for name in straight)


def test_a_state_for_another_adapter_is_refused(make_adapter, examples, batched):
    accumulator = ScoreAccumulator(make_adapter(rank=4))
    with pytest.raises(BadInputError, match="another adapter"):
        accumulator.load_state_dict(ScoreAccumulator(make_adapter(rank=2)).state_dict())


def test_progress_counts_examples(make_adapter, examples, batched):
    seen = []
    score_elements(make_adapter(), batched(examples, 3), on_batch=seen.append)
    assert seen == [3, 6, 7]


def test_no_example_and_a_missing_field_are_refused(make_adapter, examples, batched):
    with pytest.raises(BadInputError, match="no example"):
        score_elements(make_adapter(), [])
    batch = next(iter(batched(examples, 2)))
    del batch["labels"]
    with pytest.raises(BadInputError, match="no 'labels'"):
        score_elements(make_adapter(), [batch])


def test_an_adapter_that_is_switched_off_is_refused(make_adapter, examples, batched):
    model = make_adapter()
    with model.disable_adapter(), pytest.raises(BadInputError, match="'default' takes no part"):
        score_elements(model, batched(examples, 3))


def test_a_loss_that_is_not_finite_names_the_example(make_adapter, examples, batched):
    model = make_adapter()
    with torch.no_grad():
        model.get_base_model().lm_head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="example 0 is not finite"):
        score_elements(model, batched(examples, 3))


def test_a_score_that_is_not_finite_names_the_tensor(make_adapter, examples, batched):
    model = make_adapter()
    accumulator = ScoreAccumulator(model)
    accumulator.update(next(iter(batched(examples, 2))))
    state = accumulator.state_dict()
    name = list(lora_parameters(model))[5]
    state[f"square/{name}"][0, 0] = math.inf
    accumulator.load_state_dict(state)
    with pytest.raises(TrainingError, match=name):
        accumulator.scores()


def test_a_zero_b_makes_every_score_zero(make_base, examples, batched):
    """Why A and B must both start non-zero: plain PEFT's B = 0 leaves nothing to rank (method, section 2)."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_base(), LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    scores = score_elements(model, batched(examples, 3), rank=4)
    assert all(tensor.count_nonzero() == 0 for tensor in scores.values())


def test_a_bfloat16_base_gives_nearly_the_same_ranking(make_base, examples, batched):
    from lorapar.adapter import AdapterSettings, attach

    def flat(dtype):
        model = attach(make_base(dtype=dtype), AdapterSettings(rank=4), seed=3)
        return torch.cat([t.flatten() for t in score_elements(model, batched(examples, 3)).values()])

    assert torch.corrcoef(torch.stack([flat(torch.float32), flat(torch.bfloat16)]))[0, 1] > 0.98


def test_scores_are_saved_with_their_provenance(make_adapter, examples, batched, tmp_path):
    scores = score_elements(make_adapter(), batched(examples, 3))
    save_scores(tmp_path / "s1.safetensors", scores, {"base": "tiny@abc", "examples": "7"})
    loaded, metadata = load_scores(tmp_path / "s1.safetensors")
    assert metadata == {"base": "tiny@abc", "examples": "7"}
    assert list(loaded) == list(scores)
    assert all(torch.equal(loaded[name], scores[name]) for name in scores)


def test_files_that_hold_no_scores_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10")
    for name, message in [("other", "holds no scores"), ("broken", "cannot read"), ("missing", "cannot read")]:
        with pytest.raises(BadInputError, match=message):
            load_scores(tmp_path / f"{name}.safetensors")


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        save_scores(tmp_path / "file" / "s.safetensors", {"x": torch.ones(2)}, {})
