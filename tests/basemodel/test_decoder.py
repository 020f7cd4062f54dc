"""A loaded model is tried on a few words: one that reads ahead, counts padding or fails is refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lorapar.basemodel import decoder, load_model, load_skeleton, load_tokenizer, require_runs, try_decoder
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
SMALL = {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2, "pad_token_id": 2}
HEADS = {"num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


def made(family: str, **more):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL, **more)).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoder_passes(tokenizer, family):
    for model in (load_model(TINY), made(family, **HEADS)):
        assert try_decoder(model, tokenizer, TINY) is None


@pytest.mark.parametrize(
    ("family", "more", "what"),
    [
        ("bert", HEADS, "a model that reads a text both ways"),
        (
            "rwkv",
            {"attention_hidden_size": 32, "intermediate_size": 48},
            "a model to which a prompt behind padding is another prompt",
        ),
    ],
)
def test_what_no_list_knows_is_found_by_trying(tokenizer, monkeypatch, family, more, what):
    monkeypatch.setattr(decoder, "_UNFIT", {})
    with pytest.raises(BadInputError, match=rf"^model\.name: builtin:tiny is {what} \(\w+\), and only decoders"):
        try_decoder(made(family, **more), tokenizer, TINY)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("gemma4_assistant", "a model that drafts for another one, whose states it reads"),
        ("gemma4_unified_assistant", "a model that drafts for another one, whose states it reads"),
        ("musicgen", "a model that writes sound and no text"),
        ("musicgen_melody", "a model that writes sound and no text"),
    ],
)
def test_a_type_that_cannot_be_tuned_is_told_before_a_model_is_made_of_it(tmp_path, kind, what):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({"none": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = ModelConfig(name=str(tmp_path), dtype="float32")
    for load in (load_skeleton, load_model):
        with pytest.raises(BadInputError, match=rf"^model\.name: .* is {what} \({kind}\), and only decoders"):
            load(config)


def test_what_a_models_own_generation_settings_ask_beside_tokens_is_left_out(tokenizer, tmp_path):
    """Stop strings would fail for want of a tokenizer, and suppressed tokens make a greedy answer another one."""
    load_model(TINY).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    free = decoder._behind_padding(load_model(TINY), [5, 6, 7], 2)[0]
    settings = {"eos_token_id": [2, 0], "stop_strings": ["###"], "suppress_tokens": free, "repetition_penalty": 9.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    model = load_model(TINY.model_copy(update={"name": str(tmp_path)}))
    try_decoder(model, tokenizer, TINY)
    assert decoder._behind_padding(model, [5, 6, 7], 2)[0] == free
    assert model.generation_config.eos_token_id == [2, 0]


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path):
    load_model(TINY).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=r"there is no tokenizer beside its weights .* it takes tokenizer\.json"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


def test_a_model_that_does_not_run_is_one_line(tokenizer, monkeypatch):
    model = made("llama", **HEADS)
    monkeypatch.setattr(model, "forward", lambda **_: model.config.num_patches)
    with pytest.raises(
        BadInputError, match=r"\(LlamaForCausalLM\) does not run with the transformers .* AttributeError"
    ):
        try_decoder(model, tokenizer, TINY)
    with pytest.raises(BadInputError, match=r"^teacher 'one': m \(LlamaForCausalLM\) does not run with"):
        require_runs(model, tokenizer, "teacher 'one': m")
