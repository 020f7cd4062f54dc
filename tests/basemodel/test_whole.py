"""A folder that lacks weights of its model is refused: transformers would draw them by chance."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

SMALL = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def saved(folder, family: str, **more) -> ModelConfig:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL, **more)).save_pretrained(folder)
    return ModelConfig(name=str(folder), dtype="float32")


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("llama", "lm_head.weight"),
        ("gpt2", "transformer.h.0.ln_1.bias"),
    ],
)
def test_a_model_that_lacks_weights_is_refused(tmp_path, family, lost):
    config = saved(tmp_path, family)
    assert load_model(config) is not None
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BadInputError, match=rf"^model\.name: .* lacks 1 of its weights \({lost}\), which would be random"
    ):
        load_model(config)


def test_weights_that_are_tied_are_not_missed(tmp_path):
    config = saved(tmp_path, "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(config)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_of_another_kind_in_the_same_folder_is_refused(tmp_path):
    """An encoder's weights beside the settings of a decoder."""
    config = saved(tmp_path, "llama")
    save_file({"encoder.layer.0.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match=r"lacks \d+ of its weights \(lm_head\.weight, model\.embed_tokens"):
        load_model(config)
