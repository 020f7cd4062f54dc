"""`builtin:tiny` is a complete, deterministic model that the whole stack can use."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lorapar.basemodel import load_model, load_tokenizer, model_folder
from lorapar.basemodel.tiny import write_tiny
from lorapar.config import ModelConfig

TINY = ModelConfig(name="builtin:tiny", dtype="float32")


def test_shape_and_loading(fresh_cache):
    model = load_model(TINY)
    assert not model.training
    assert model.dtype == torch.float32
    assert model.num_parameters() == 90_624
    assert model.config.head_dim == 32, "vLLM on the CPU takes 32 and 64 only"
    assert model_folder(TINY).is_relative_to(fresh_cache)
    assert load_model(TINY.model_copy(update={"dtype": "bfloat16"})).dtype == torch.bfloat16


DOWN_SUM = 2.9975


def test_made_twice_it_is_the_same(tmp_path, fresh_cache):
    again = tmp_path / "again"
    again.mkdir()
    torch.manual_seed(7)
    write_tiny(again)
    first = load_file(model_folder(TINY) / "model.safetensors")
    second = load_file(again / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    # Known answer: the weights a digest of this version stands for.
    assert round(first["model.layers.1.mlp.down_proj.weight"].double().sum().item(), 4) == DOWN_SUM


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


@given(text=st.text())
def test_every_text_comes_back_and_every_byte_is_a_token(tokenizer, text):
    assume(not any(token in text for token in tokenizer.all_special_tokens))  # hypothesis tries texts of the source
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode("utf-8"))


def test_generation_stops_and_samples(fresh_cache):
    model, tokenizer = load_model(TINY), load_tokenizer(TINY)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert written.shape == (1, prompt["input_ids"].shape[1] + 5)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.padding_side == "right"
