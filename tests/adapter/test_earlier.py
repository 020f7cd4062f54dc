"""Going on from an earlier adapter: the start is what it was, and what is held frozen keeps its bits."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorapar.adapter import (
    AdapterSettings,
    EarlierAdapter,
    attach,
    attach_again,
    load_adapter,
    lora_parameters,
    masked_training,
    read_earlier,
    save_adapter,
    trainable_slice,
)
from lorapar.adapter.earlier import Factors
from lorapar.errors import BadInputError, IntegrityError

IDS = torch.tensor([[5, 60, 7, 100, 9]])
QV = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
KINDS = {
    "another alpha": {**QV, "lora_alpha": 20},
    "rsLoRA": {**QV, "use_rslora": True},
    "ranks and alphas by pattern": {**QV, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "one layer only": {**QV, "layers_to_transform": [0]},
    "a module the layout lacks": {**QV, "target_modules": ["v_proj", "o_proj"]},
    "the same scale": {**QV, "lora_alpha": 16},
}


@pytest.fixture(scope="module")
def llama(make_family):
    return make_family("llama")


@pytest.fixture
def make_earlier(llama, tmp_path):
    """A trained plain PEFT adapter as a folder, and the logits of the base with it."""

    def make(base=llama, dtype=torch.float32, **config):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.data.normal_(std=0.2)
                if ".lora_" in name:
                    parameter.data = parameter.data.to(dtype).float()
        model.save_pretrained(tmp_path / "earlier")
        return tmp_path / "earlier", model(IDS).logits.detach()

    return make


def difference(model, expected: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(IDS).logits - expected).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_earlier_adapter(llama, make_earlier, kind) -> None:
    folder, expected = make_earlier(**KINDS[kind])
    earlier = read_earlier(folder, "mine")
    settings = AdapterSettings(rank=2, alpha=8, dropout=0.0)
    beside = attach(copy.deepcopy(llama), settings, seed=0, earlier=earlier)
    again = attach_again(copy.deepcopy(llama), earlier, trained_rank=earlier.rank, dropout=0.0)
    assert difference(llama, expected) > 0.01, "the earlier adapter has to do something"
    assert difference(beside, expected) < 1e-5
    assert difference(again, expected) < 1e-5
    assert beside.peft_config["default"].r == 4 + earlier.rank


def test_one_scale_keeps_every_bit(llama, make_earlier) -> None:
    folder, expected = make_earlier(**KINDS["the same scale"])
    model = attach(copy.deepcopy(llama), AdapterSettings(rank=2, alpha=8), seed=0, earlier=read_earlier(folder, "mine"))
    held = lora_parameters(load_adapter(copy.deepcopy(llama), folder, trainable=False))
    for name, parameter in lora_parameters(model).items():
        if name in held:
            tail = parameter[4:] if ".lora_A." in name else parameter[:, 4:]
            assert torch.equal(tail, held[name])
    assert difference(model, expected) < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox"])
def test_other_layouts_of_weights_go_on_too(make_family, make_earlier, family) -> None:
    base = make_family(family)
    target = {"gpt2": "c_attn", "phi3": "qkv_proj", "gpt_neox": "query_key_value"}[family]
    folder, expected = make_earlier(base, r=3, lora_alpha=9, target_modules=[target], fan_in_fan_out=family == "gpt2")
    model = attach(copy.deepcopy(base), AdapterSettings(rank=2, alpha=8), seed=0, earlier=read_earlier(folder, "mine"))
    assert difference(model, expected) < 1e-5


def test_training_moves_the_new_elements_only_and_plain_peft_loads_what_is_saved(llama, make_earlier, tmp_path) -> None:
    earlier = read_earlier(make_earlier(**KINDS["rsLoRA"])[0], "mine")
    model = attach(copy.deepcopy(llama), AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0, earlier=earlier)
    before = {name: p.detach().clone() for name, p in lora_parameters(model).items()}
    mask = {name: torch.ones_like(trainable_slice(name, p, 2), dtype=torch.bool) for name, p in before.items()}
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(lr=0.1)
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    for name, parameter in lora_parameters(model).items():
        new, rest = (parameter[:2], parameter[2:]) if ".lora_A." in name else (parameter[:, :2], parameter[:, 2:])
        old = before[name][2:] if ".lora_A." in name else before[name][:, 2:]
        assert torch.equal(rest, old)
        assert not torch.equal(new, trainable_slice(name, before[name], 2))
    save_adapter(model, tmp_path / "saved")
    plain = PeftModel.from_pretrained(copy.deepcopy(llama), str(tmp_path / "saved"))
    assert difference(plain, model.eval()(IDS).logits.detach()) < 1e-6
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["rank_pattern"], config["alpha_pattern"]) == (False, {}, {})


def test_continued_elements_keep_the_part_that_was_never_trained(llama, tmp_path) -> None:
    first = attach(copy.deepcopy(llama), AdapterSettings(rank=2, alpha=8), seed=0)
    save_adapter(first, tmp_path / "first")
    again = attach_again(copy.deepcopy(llama), read_earlier(tmp_path / "first", "mine"), trained_rank=2, dropout=0.1)
    assert again.peft_config["default"].lora_dropout == 0.1
    for name, parameter in lora_parameters(again).items():
        assert torch.equal(parameter, lora_parameters(first)[name])


def test_an_adapter_of_another_model_is_refused(llama, make_family, make_earlier) -> None:
    earlier = read_earlier(make_earlier(**QV)[0], "mine")
    with pytest.raises(IntegrityError, match=r"mine has LoRA on 'model.layers.0.self_attn.q_proj' .* another base"):
        attach(make_family("gpt2"), AdapterSettings(), seed=0, earlier=earlier)
    narrow = copy.deepcopy(llama)
    narrow.model.layers[1].self_attn.v_proj = torch.nn.Linear(64, 16, bias=False)
    with pytest.raises(IntegrityError, match=r"v_proj' \(from 64 to 32\), and LlamaForCausalLM has it from 64 to 16"):
        attach(narrow, AdapterSettings(), seed=0, earlier=earlier)


def test_a_rank_that_is_not_that_of_the_configuration_is_refused(make_earlier) -> None:
    """PEFT would not load it, and whether its scale is alpha / 4 or alpha / 7 nothing says."""
    folder, _ = make_earlier(**QV)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, "r": 7}))
    with pytest.raises(BadInputError, match=r"mine: '.*q_proj' has rank 4, and its adapter_config\.json says 7"):
        read_earlier(folder, "mine")


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_tensors_that_are_no_plain_pairs_are_named(make_earlier, module) -> None:
    folder, _ = make_earlier(r=2, target_modules=["q_proj", module])
    with pytest.raises(BadInputError, match=f"mine holds '.*{module}.*', which is no part of a plain LoRA"):
        read_earlier(folder, "mine")


def test_lora_outside_of_the_layers_is_refused(llama) -> None:
    head = EarlierAdapter("mine", {"lm_head": Factors(torch.ones(2, 64), torch.ones(259, 2), 1.0)})
    with pytest.raises(BadInputError, match="LoRA on 'lm_head', which is no linear module of the decoder's layers"):
        attach(copy.deepcopy(llama), AdapterSettings(), seed=0, earlier=head)
