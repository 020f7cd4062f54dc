"""Sizes are read from the config.json of every family, whatever it calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig

from lorapar.basemodel.shape import context_length, model_shape
from lorapar.config import ModelConfig, load_config
from lorapar.local.estimate import stage_memory

FAMILIES = sorted(yaml.safe_load((Path(__file__).parents[1] / "families.yaml").read_text(encoding="utf-8"))["families"])


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_about_right(make_family, tmp_path, family) -> None:
    with torch.device("meta"):
        model = make_family(family)
    (tmp_path / "config.json").write_text(model.config.to_json_string())
    shape = model_shape(ModelConfig(name=str(tmp_path)))
    assert shape is not None
    positions = ("wpe", "embed_positions")
    weights = [p for name, p in model.named_parameters() if p.dim() > 1 and not any(one in name for one in positions)]
    # Convolutions, shared experts and state spaces are not told apart: half and a fifth are the worst of these.
    assert 0.5 <= shape.parameters / sum(p.numel() for p in weights) <= 1.25


@pytest.mark.parametrize(
    ("file", "weights"),
    [
        # As the hub has them: openai-community/gpt2, mistralai/Mixtral-8x7B-v0.1, google/gemma-3-4b-it (in part).
        (
            {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None, "vocab_size": 50257},
            124e6,
        ),
        (
            {
                **{"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
                **{"num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "vocab_size": 32000},
            },
            46.7e9,
        ),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    **{"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "head_dim": 256},
                    **{"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208},
                    "tie_word_embeddings": True,
                },
            },
            3.88e9,
        ),
    ],
)
def test_published_models_come_to_their_size(tmp_path, file, weights) -> None:
    (tmp_path / "config.json").write_text(json.dumps(file))
    shape = model_shape(ModelConfig(name=str(tmp_path)))
    assert shape is not None
    assert shape.parameters == pytest.approx(weights, rel=0.02)


@pytest.mark.parametrize(
    "file", [{"n_positions": 1024}, {"text_config": {"max_position_embeddings": 1024}, "max_position_embeddings": None}]
)
def test_the_context_is_read_whatever_it_is_called(tmp_path, file) -> None:
    (tmp_path / "config.json").write_text(json.dumps(file))
    assert context_length(ModelConfig(name=str(tmp_path))) == 1024


def test_a_model_of_older_names_has_an_estimate(tmp_path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    config = load_config(preset="tiny", overrides=[f"model.name={tmp_path}"])
    needs = stage_memory(config)
    assert needs["sft"].total_bytes > needs["init"].total_bytes > 4 * 124e6


def test_what_names_no_sizes_has_none(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "width": 7, "vocab_size": 100}))
    assert model_shape(ModelConfig(name=str(tmp_path))) is None
