"""Attaching an adapter: names, layouts, initialisations, and a base model that is never edited."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from lorapar.adapter import (
    AdapterSettings,
    adapter_mark,
    attach,
    base_digest,
    layer_and_module,
    lora_parameters,
    resolve_layout,
    trainable_slice,
)
from lorapar.errors import BadInputError

INITS = ["residual", "paper", "pissa", "olora"]
IDS = torch.arange(5, 17).reshape(2, 6)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_parameters_are_named_and_valued_as_peft_saves_them(make_adapter):
    model = make_adapter()
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    parameters = lora_parameters(model)
    assert list(parameters) == sorted(saved)
    assert all(torch.equal(parameters[name], saved[name]) for name in saved)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in parameters


def test_a_second_adapter_such_as_trls_ref_is_left_out(make_adapter):
    model = make_adapter()
    before = list(lora_parameters(model))
    model.add_adapter("ref", model.peft_config["default"])
    assert list(lora_parameters(model)) == before
    assert list(lora_parameters(model, "ref")) == before
    reference = lora_parameters(model, "ref")
    assert not any(parameter is reference[name] for name, parameter in lora_parameters(model).items())


def test_a_model_without_adapter_is_refused(make_base):
    with pytest.raises(BadInputError, match="no adapter named 'default'"):
        lora_parameters(make_base())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize(("layout", "modules"), [("QKVGUD", 6), ("QKV", 3), ("GUD", 3), (("o_proj", "q_proj"), 2)])
def test_layouts_resolve_in_every_family(make_base, family, layout, modules):
    model = attach(make_base(family), AdapterSettings(rank=2, layout=layout), seed=0)
    found = {layer_and_module(name) for name in lora_parameters(model)}
    assert len(found) == 2 * modules
    assert {layer for layer, _ in found} == {0, 1}
    assert {module for _, module in found} == set(resolve_layout(make_base(family), layout))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "adapter.rank is 0"),
        ({"alpha": -1}, "adapter.alpha is -1"),
        ({"dropout": 1.0}, "adapter.dropout is 1.0"),
        ({"init": "pisa"}, "did you mean 'pissa'"),
        ({"pissa_iterations": -1}, "pissa_iterations is -1"),
    ],
)
def test_settings_that_cannot_mean_anything_are_refused(wrong, message):
    with pytest.raises(BadInputError, match=message):
        AdapterSettings(**wrong)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_never_edited_and_the_adapter_is_float32(make_base, init, dtype):
    base = make_base(dtype=dtype)
    digest, before = base_digest(base), {name: value.clone() for name, value in base.state_dict().items()}
    model = attach(base, AdapterSettings(rank=4, init=init), seed=0)
    assert base_digest(model) == digest
    after = {key.replace(".base_layer", ""): value for key, value in base.state_dict().items() if ".lora_" not in key}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(model).values())


def test_the_digest_notices_one_changed_bit_and_only_the_base(make_base, make_adapter):
    base = make_base()
    digest = base_digest(base)
    assert digest == base_digest(make_base())
    assert digest == base_digest(make_adapter())  # an adapter with other values on the same base
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight.view(torch.int32)[3, 5] ^= 1
    assert base_digest(base) != digest


@pytest.mark.parametrize("init", ["residual", "pissa", "olora"])
@pytest.mark.parametrize("training", [False, True])
def test_the_function_is_unchanged_at_step_zero(make_base, init, training):
    expected = logits(make_base())
    model = attach(make_base(), AdapterSettings(rank=4, alpha=8, dropout=0.3, init=init), seed=0).train(training)
    # PiSSA's factors are as large as the weights, so more rounding cancels than with N(0, 0.01^2).
    assert torch.allclose(logits(model), expected, atol=2e-4)


def test_the_paper_start_moves_the_function(make_base):
    model = attach(make_base(), AdapterSettings(rank=4, init="paper"), seed=0)
    assert (logits(model) - logits(make_base())).abs().max() > 1e-3


def test_switching_the_adapter_off_gives_the_true_base(make_base, make_adapter):
    model = make_adapter(init="pissa")
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(make_base()))


@pytest.mark.parametrize("init", INITS)
def test_the_second_half_mirrors_the_first_and_the_scaling_is_kept(make_base, init):
    model = attach(make_base(), AdapterSettings(rank=4, alpha=64, init=init), seed=0)
    config = model.peft_config["default"]
    held = 4 if init == "paper" else 8
    assert (config.r, config.lora_alpha / config.r, config.init_lora_weights) == (held, 16, True)
    for name, parameter in lora_parameters(model).items():
        first = trainable_slice(name, parameter, 4)
        if init == "paper":
            assert first.shape == parameter.shape
        elif name.endswith("lora_A.weight"):
            assert torch.equal(parameter[4:], first)
        else:
            assert torch.equal(parameter[:, 4:], -first)
    assert adapter_mark(model).rank == 4


def test_gaussian_starts_have_the_papers_spread_and_follow_the_seed(make_base):
    def start(seed):
        model = attach(make_base(), AdapterSettings(rank=8, init="paper"), seed=seed)
        return torch.cat([p.detach().flatten() for p in lora_parameters(model).values()])

    values = start(0)
    assert values.mean().abs() < 3 * 0.01 / len(values) ** 0.5
    assert abs(values.std().item() / 0.01 - 1) < 0.02
    assert torch.equal(values, start(0))
    assert not torch.equal(values, start(1))


@pytest.mark.parametrize("init", INITS)
def test_attaching_leaves_the_global_random_state_alone(make_base, init):
    base = make_base()
    state = torch.get_rng_state()
    attach(base, AdapterSettings(rank=2, init=init, pissa_iterations=2), seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_pissa_and_olora_take_pefts_factors(make_base, init):
    ours = lora_parameters(attach(make_base(), AdapterSettings(rank=4, alpha=8, init=init), seed=0))
    config = LoraConfig(
        r=4, lora_alpha=8, init_lora_weights=init, target_modules=list(resolve_layout(make_base(), "QKVGUD"))
    )
    for name, theirs in lora_parameters(get_peft_model(make_base(), config)).items():
        assert torch.allclose(trainable_slice(name, ours[name], 4), theirs, atol=1e-6)


def test_pissa_holds_the_principal_directions(make_base):
    """Known answer: scaling * B A is the best rank-r approximation of the weight."""
    base = make_base()
    weight = base.model.layers[0].mlp.up_proj.weight.detach().clone()
    parameters = lora_parameters(attach(base, AdapterSettings(rank=4, alpha=8, init="pissa"), seed=0))
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    a, b = parameters[f"{stem}.lora_A.weight"][:4], parameters[f"{stem}.lora_B.weight"][:, :4]
    u, s, v = torch.linalg.svd(weight)
    assert torch.allclose(2 * b @ a, u[:, :4] @ torch.diag(s[:4]) @ v[:4], atol=1e-4)


def test_fast_pissa_approximates_the_weight_as_well_as_the_exact_one(make_base):
    def remainder(iterations):
        base = make_base()
        weight = base.model.layers[0].mlp.up_proj.weight.detach().clone()
        settings = AdapterSettings(rank=4, alpha=8, init="pissa", pissa_iterations=iterations)
        parameters = lora_parameters(attach(base, settings, seed=0))
        stem = "base_model.model.model.layers.0.mlp.up_proj"
        product = parameters[f"{stem}.lora_B.weight"][:, :4] @ parameters[f"{stem}.lora_A.weight"][:4]
        return (weight - 2 * product).norm().item()

    assert remainder(0) <= remainder(16) * (1 + 1e-6)  # nothing of rank 4 beats the exact SVD
    assert remainder(16) < 1.01 * remainder(0)
    assert remainder(16) == remainder(16)


def test_a_rank_above_the_layers_size_names_the_layer(make_base):
    # k_proj and v_proj of the tiny model are 32 x 64.
    with pytest.raises(BadInputError, match=r"adapter.rank 40 .*k_proj.*at most 32"):
        attach(make_base(), AdapterSettings(rank=40, init="pissa"), seed=0)


def test_pissa_of_an_unreadable_quantised_weight_says_what_to_use_instead(make_base):
    base = make_base()
    projection = base.model.layers[0].mlp.up_proj
    projection.weight = torch.nn.Parameter(projection.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(BadInputError, match=r"up_proj.*cannot|up_proj.*not floats.*residual"):
        attach(base, AdapterSettings(rank=2, init="pissa"), seed=0)


def test_a_model_that_carries_an_adapter_is_refused(make_adapter):
    with pytest.raises(BadInputError, match="already carries an adapter"):
        attach(make_adapter(), AdapterSettings(), seed=0)


def test_the_trainable_slice_is_a_view_of_rows_of_a_and_columns_of_b():
    a, b = torch.zeros(4, 3), torch.zeros(5, 4)
    trainable_slice("x.lora_A.weight", a, 2).fill_(1)
    trainable_slice("x.lora_B.weight", b, 2).fill_(1)
    assert a.sum(1).tolist() == [3, 3, 0, 0]
    assert b.sum(0).tolist() == [5, 5, 0, 0]


@pytest.mark.parametrize(("name", "rank"), [("x.lora_A.weight", 5), ("x.lora_A.weight", 0), ("x.weight", 1)])
def test_a_slice_that_cannot_be_is_refused(name, rank):
    with pytest.raises(BadInputError, match=name):
        trainable_slice(name, torch.zeros(4, 4), rank)
