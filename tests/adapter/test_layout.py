"""Layouts by role: what Q, K, V, O, G, U and D are in every family, and that scoring is right on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from lorapar.adapter import (
    ROLES,
    AdapterSettings,
    attach,
    find_targets,
    layout,
    lora_parameters,
    resolve_layout,
    score_elements,
    trainable_slice,
)
from lorapar.adapter.layout import role_of
from lorapar.config.adapter import ROLES as ROLES_OF_SETTINGS
from lorapar.errors import BadInputError

FAMILIES = sorted(yaml.safe_load((Path(__file__).parents[1] / "families.yaml").read_text(encoding="utf-8"))["families"])
RANK = 2


def batch() -> dict[str, torch.Tensor]:
    """Three examples of nine tokens, the second of them padded to that."""
    ids = torch.randint(3, 259, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def scores_one_by_one(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The formula of the paper (section 3.2) by autograd, an example at a time and without padding."""
    parameters = lora_parameters(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    gradients = []
    for ids, mask, labels in zip(*batch().values(), strict=True):
        length = int(mask.sum())
        logits = model(input_ids=ids[None, :length], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[1:length])
        gradients.append(torch.autograd.grad(loss, list(parameters.values())))
    scores = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        each = torch.stack([found[number] for found in gradients]).double()
        phi = parameter.detach().double()
        score = (each.mean(0) * phi - 0.5 * each.square().mean(0) * phi.square()).abs()
        scores[name] = trainable_slice(name, score, RANK)
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_scored_as_one_example_at_a_time(make_family, family: str) -> None:
    base = make_family(family)
    inputs = {key: value for key, value in batch().items() if key != "labels"}
    with torch.no_grad():
        before = base(**inputs, use_cache=False).logits
    model = attach(base, AdapterSettings(rank=RANK, alpha=8, dropout=0.0), seed=0)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, use_cache=False).logits, before, rtol=0, atol=1e-5)
    expected, found = scores_one_by_one(model), score_elements(model, [batch()])
    for name, score in expected.items():
        assert score.max() > 0, f"{name} takes no part"
        assert (found[name] - score).abs().max() <= 1e-4 * score.max(), name


@pytest.mark.parametrize(
    ("family", "layout", "modules", "note"),
    [
        ("llama", "QKVGUD", {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}, None),
        ("llama", "QV", {"q_proj", "v_proj"}, None),
        ("llama", "all-linear", {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}, None),
        ("llama", r".*self_attn\.[qo]_proj", {"q_proj", "o_proj"}, None),
        ("llama", r".*layers\.1\..*k_proj", {"1.self_attn.k_proj"}, None),
        ("llama", ("mlp.up_proj",), {"mlp.up_proj"}, None),
        ("phi3", "QKVGUD", {"qkv_proj", "gate_up_proj", "down_proj"}, None),
        ("phi3", "GUD", {"gate_up_proj", "down_proj"}, None),
        ("phi3", "QV", {"qkv_proj"}, "qkv_proj holds Q, K and V in one matrix, so the layout QV takes it whole"),
        ("gpt2", "QKVGUD", {"c_attn", "c_fc", "mlp.c_proj"}, "no G projection"),
        ("gpt2", "O", {"attn.c_proj"}, None),
        ("phi", "GUD", {"fc1", "fc2"}, "this model has no G projection, so the layout GUD means its U and D"),
        ("gpt_neox", "QKVO", {"query_key_value", "dense"}, None),
        ("falcon", "QKVO", {"query_key_value", "dense"}, None),
        ("lfm2", "GUD", {"w1", "w2", "w3"}, None),
        ("mixtral", "QKVGUD", {"q_proj", "k_proj", "v_proj"}, "the routed experts"),
        ("qwen2_moe", "GUD", {"gate_proj", "up_proj", "down_proj"}, "the routed experts"),
        ("deepseek_v3", "Q", {"q_a_proj", "q_b_proj"}, None),
        ("deepseek_v3", "K", {"kv_a_proj_with_mqa", "kv_b_proj"}, "holds K and V in one matrix"),
        ("glm4_moe", "QKVGUD", {"q_proj", "k_proj", "v_proj"}, "PEFT reads their names as those of routed experts"),
        ("dbrx", "QKVGUD", {"Wqkv"}, "the routed experts"),
        ("qwen3_next", "QKV", {"in_proj_qkvz", "q_proj", "k_proj", "v_proj"}, None),
    ],
)
def test_a_layout_means_its_roles_in_every_family(make_family, family, layout, modules, note) -> None:
    targets = find_targets(make_family(family), layout)
    assert set(targets.modules) == modules
    assert note is None or note in "; ".join(targets.notes)


def test_the_names_found_are_what_peft_adapts_and_nothing_else(make_family) -> None:
    model = attach(make_family("gpt2"), AdapterSettings(rank=RANK, layout="GUD"), seed=0)
    paths = {name.split(".lora_")[0].split(".h.")[1] for name in lora_parameters(model)}
    assert paths == {f"{layer}.mlp.{name}" for layer in (0, 1) for name in ("c_fc", "c_proj")}


@pytest.mark.parametrize(
    ("family", "layout", "message"),
    [
        (
            "llama",
            ("c_attn", "q_proj"),
            r"has no linear module c_attn; .*adapter\.layout: \[down_proj, gate_proj, k_proj",
        ),
        ("qwen3_moe", "GUD", r"Qwen3MoeForCausalLM has no linear module for G, U, D"),
        ("glm4_moe", "GUD", r"for routed experts in Glm4MoeForCausalLM.*adapter\.layout QKV"),
        (
            "llama",
            r".*\.c_attn",
            r"matches the whole path of a linear module of Llama.*, such as model\.layers",
        ),
        ("nanochat", "G", r"has no linear module for G"),
    ],
)
def test_a_layout_that_the_model_lacks_is_reported_with_what_to_write(make_family, family, layout, message) -> None:
    with pytest.raises(BadInputError, match=message):
        resolve_layout(make_family(family), layout)


def test_names_that_peft_reads_as_experts_are_left_out_where_all_layers_are_dense(monkeypatch) -> None:
    """PEFT goes by the model's type, and would put no LoRA on the dense layers' MLP, without a word."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model("glm4_moe", vocab_size=99, num_hidden_layers=1, first_k_dense_replace=1, **small)
    model = AutoModelForCausalLM.from_config(config)
    targets = find_targets(model, "QKVGUD")
    assert targets.modules == ("q_proj", "k_proj", "v_proj")
    assert targets.notes == (
        "gate_proj, up_proj, down_proj carry no LoRA, because PEFT reads their names as those of routed experts",
    )
    monkeypatch.setattr(layout, "_means_experts", lambda *_: False)
    with pytest.raises(BadInputError, match="PEFT puts LoRA on other modules of Glm4MoeForCausalLM"):
        attach(model, AdapterSettings(rank=RANK), seed=0)


def test_modules_that_peft_or_no_text_takes_are_left_out_and_reported() -> None:
    """Mamba's kernels read out_proj, and its slow path dt_proj, past the modules; a text passes no vision tower."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 99}
    mamba = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", state_size=4, **small))
    targets = find_targets(mamba, "all-linear")
    assert targets.modules == ("in_proj", "x_proj")
    assert "out_proj carry no LoRA, which PEFT does not take there" in targets.notes
    assert "backbone.layers.mixer.dt_proj carry no LoRA, because no text passes through them" in targets.notes
    with pytest.raises(BadInputError, match=r"no text passes through backbone\.layers\.mixer\.dt_proj of Mamba"):
        find_targets(mamba, ("dt_proj",))
    with pytest.raises(BadInputError, match="PEFT takes no LoRA on out_proj of Mamba"):
        find_targets(mamba, ("out_proj",))
    heads = {"intermediate_size": 32, "num_attention_heads": 2}
    gemma3 = AutoConfig.for_model(
        "gemma3",
        text_config={**small, **heads, "num_key_value_heads": 1, "head_dim": 16},
        vision_config={**small, **heads, "image_size": 28, "patch_size": 14},
    )
    with torch.device("meta"):
        seeing = AutoModelForCausalLM.from_config(gemma3)
    targets = find_targets(seeing, ("q_proj",))
    assert targets.modules == ("language_model.layers.0.self_attn.q_proj",)
    assert "vision_tower" in targets.notes[0]


def test_routers_indexers_and_heads_have_no_role() -> None:
    for path in (
        "lm_head.dense",
        "model.layers.0.mlp.router.gate",
        "model.layers.0.self_attn.indexer.wq_b",
        "model.vision_tower.layers.0.self_attn.q_proj",
        "model.decoder.layers.0.encoder_attn.q_proj",
        "model.layers.0.self_attn.gate_proj",
        "model.layers.0.ple.key_proj",  # Qwen4-Exp: of features of neighbouring tokens
    ):
        assert role_of(path) == "", path


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("model.layers.0.self_attn.q_gate_proj", "Q"),  # A.X K2: the second half of Q, and a gate
        ("transformer.h.0.self_attn.key_proj", "K"),
        ("model.layers.0.self_attn.q_proj.linear", "Q"),  # Moshi
        ("model.layers.1.self_attn.qkv_proj.v_proj_delayed", "V"),
    ],
)
def test_a_role_is_found_by_name_and_block(path: str, role: str) -> None:
    assert role_of(path) == role


def test_a_first_matrix_of_twice_the_width_holds_the_gate_too(make_family) -> None:
    """As in Moshi, where no name says so."""
    model = make_family("phi")
    for layer in model.model.layers:
        layer.mlp.fc1 = torch.nn.Linear(64, 192)
    assert find_targets(model, "QKVGUD").notes == ()
    (note,) = find_targets(model, "UD").notes
    assert note == "fc1 holds G and U in one matrix, so the layout UD takes it whole"


def test_settings_and_method_know_the_same_roles() -> None:
    assert ROLES_OF_SETTINGS == ROLES
