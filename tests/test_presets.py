"""Every preset loads, says in its first line what it is for, and fits the stages; the paper's is the paper's."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import yaml
from jsonschema import Draft202012Validator

from lorapar.config import load_config, preset_names, preset_summary, preset_text
from lorapar.config.reference import schema_text
from lorapar.errors import BadInputError
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import node_settings

PAPER = "paper-llama2-7b-gsm8k"

# Huang et al. 2025, section 4: what the preset must say in so many words, whatever the defaults become.
PAPER_SETTINGS = {
    "model.name": "meta-llama/Llama-2-7b-hf",
    "adapter.rank": 8,
    "adapter.alpha": 64,
    "adapter.dropout": 0.05,
    "adapter.layout": "QKVGUD",
    "adapter.init": "paper",
    "score.examples": 100,
    "score.batch_size": 1,
    "partition.theta": 0.9,
    "partition.alpha": 1.0,
    "partition.beta": 1.0,
    "sft.rows": "system1",
    "sft.warmup_system2_examples": 0,
    "sft.epochs": 1,
    "sft.learning_rate": 2e-4,
    "sft.scheduler": "cosine",
    "sft.warmup_ratio": 0.03,
    "sft.batch_size": 1,
    "sft.gradient_accumulation": 32,
    "sft.max_length": 512,
    "rl.rows": "system2",
    "rl.epochs": 1,
    "rl.learning_rate": 5e-6,
    "rl.scheduler": "cosine",
    "rl.warmup_ratio": 0.1,
    "rl.batch_size": 8,
    "rl.gradient_accumulation": 4,
    "rl.num_generations": 8,
    "rl.max_prompt_length": 128,
    "rl.max_completion_length": 256,
    "rl.adam_beta1": 0.9,
    "rl.adam_beta2": 0.99,
    "rl.weight_decay": 0.1,
    "rl.max_grad_norm": 0.1,
    "voting.role_play": True,
}


def test_the_promised_presets_ship() -> None:
    assert {"demo", "tiny", PAPER, "qwen2.5-7b-gsm8k", "single-gpu-24gb"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_for_every_stage(name: str) -> None:
    sections = node_settings(load_config(preset=name))
    assert set(sections) == {node.name for node in GRAPH} - {"plan"}


@pytest.mark.parametrize("name", preset_names())
def test_preset_says_what_it_is_for_before_its_first_setting(name: str) -> None:
    assert preset_text(name).splitlines()[1] == f"# {preset_summary(name)}"
    assert 20 <= len(preset_summary(name)) <= 120


@pytest.mark.parametrize("name", preset_names())
def test_preset_pins_its_own_run_folder(name: str) -> None:
    """Without a name of its own a preset's run would land in the folder of another preset's run."""
    names = [load_config(preset=other).name for other in preset_names()]
    assert names.count(load_config(preset=name).name) == 1


@pytest.mark.parametrize(("key", "value"), PAPER_SETTINGS.items())
def test_paper_preset_has_the_paper_value(key: str, value: object) -> None:
    section, field = key.split(".")
    assert getattr(getattr(load_config(preset=PAPER), section), field) == value


def test_paper_preset_has_five_different_teachers_none_of_them_the_model_itself() -> None:
    config = load_config(preset=PAPER)
    models = {teacher.model for teacher in config.teachers}
    assert len(models) == 5
    assert models.isdisjoint({None, config.model.name})


def test_paper_preset_rewards_are_the_papers() -> None:
    rewards = load_config(preset=PAPER).rl.rewards
    assert rewards == {
        "exact_answer": 2.0,
        "integer_answer": 0.5,
        "strict_format": 0.5,
        "soft_format": 0.5,
        "tag_count": 0.5,
    }


def test_unknown_preset_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(BadInputError, match=r"no preset is called 'demmo' \(did you mean 'demo'\?\)"):
        preset_text("demmo")


def test_the_shipped_schema_is_what_the_settings_say() -> None:
    shipped = resources.files("lorapar.presets").joinpath("lorapar.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "run `make docs` and commit lorapar/presets/lorapar.schema.json"


@pytest.mark.parametrize("name", preset_names())
def test_editors_find_the_schema_and_it_accepts_the_preset(name: str) -> None:
    assert preset_text(name).splitlines()[0] == "# yaml-language-server: $schema=lorapar.schema.json"
    Draft202012Validator(json.loads(schema_text())).validate(yaml.safe_load(preset_text(name)))


def test_the_schema_refuses_what_the_settings_refuse() -> None:
    validator = Draft202012Validator(json.loads(schema_text()))
    for wrong in ({"partition": {"theta": 2}}, {"rl": {"lerning_rate": 1}}, {"sft": {"epochs": "many"}}):
        assert not validator.is_valid(wrong), wrong
