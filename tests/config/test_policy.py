"""GRPO's loss in the settings is what the installed TRL takes: names, choices and defaults of its GRPOConfig."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from transformers import TrainingArguments
from trl import GRPOConfig

from lorapar.config import ModelConfig, RlConfig
from lorapar.config.policy import PolicyConfig
from lorapar.training.arguments import rl_arguments
from lorapar.training.rewards import load_rewards

FIELDS = {field.name: field for field in dataclasses.fields(GRPOConfig)}
OF_TRL = set(FIELDS) - {field.name for field in dataclasses.fields(TrainingArguments)}
# TRL's fields that no run sets: why. Every other one must reach GRPOConfig, so that a new one of TRL is decided on.
LEFT_ALONE = {
    "model_init_kwargs trust_remote_code cast_lm_head_to_fp32": "the model is loaded by lorapar.basemodel",
    "num_generations_eval": "nothing is evaluated while RL trains",
    "ds3_gather_for_generation": "no DeepSpeed",
    "pad_to_multiple_of": "padding changes nothing that is learned",
    "generation_batch_size": "follows from steps_per_generation",
    "generation_kwargs": "lorapar.training.rollouts generates, and looks for scores that are no numbers itself",
    "chat_template_kwargs cache_implementation max_tool_calling_iterations": "prompts and tools are not TRL's here",
    "vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url "
    "vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization "
    "vllm_max_model_length vllm_tensor_parallel_size": "the engine is lorapar.training.vllm_rollouts",
    "ref_model_mixup_alpha ref_model_sync_steps": "the reference model stays as it is",
    "log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo": "the report shows samples",
    "use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged": "rollouts",
    "vllm_importance_sampling_cap": "deprecated: clip_max",
}


def arguments(**changes: Any) -> dict[str, Any]:
    settings = RlConfig(**changes)
    model = ModelConfig(name="builtin:tiny", dtype="float32")
    return rl_arguments(settings, model, load_rewards(settings.rewards), 0, Path("scratch"))


def choices_of_trl(name: str) -> set[str]:
    """What the help of a field of TRL puts in quotes as values of it."""
    text = FIELDS[name].metadata["help"]
    return set(re.findall(r"(?<![=\w])[`']+([a-z_]+)[`']+", text)) - set(FIELDS)


@pytest.mark.parametrize("name", PolicyConfig.model_fields)
def test_names_and_defaults_are_those_of_trl(name: str) -> None:
    assert name in FIELDS, f"the installed TRL has no {name}"
    assert PolicyConfig.model_fields[name].default == FIELDS[name].default


@pytest.mark.parametrize(
    "name", [name for name, field in PolicyConfig.model_fields.items() if isinstance(field.default, str)]
)
def test_choices_are_those_of_trl(name: str) -> None:
    assert set(get_args(PolicyConfig.model_fields[name].annotation)) == choices_of_trl(name)


def test_every_choice_of_trl_is_set_or_left_alone_for_a_reason() -> None:
    alone = {name for names in LEFT_ALONE for name in names.split()}
    assert OF_TRL - alone - set(arguments()) == set()


@pytest.mark.parametrize(
    "choice",
    [
        *({"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "dapo")),
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss_type": "sapo", "sapo_temperature_neg": 1.5},
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"loss_type": "vespo", "vespo_k_neg": 2.5},
        {"delta": 4.0, "epsilon": 0.1, "epsilon_high": 0.28, "num_iterations": 2, "off_policy_mask_threshold": 0.5},
        {"mask_truncated_completions": True, "top_entropy_quantile": 0.2, "entropy_coef": 0.01},
        {"use_adaptive_entropy": True, "entropy_target": 1.5, "entropy_coef_max": 0.1},
        {
            "rollouts": "vllm",
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_min": 0.5,
        },
    ],
    ids=str,
)
def test_trl_takes_what_the_settings_take(choice: dict[str, Any]) -> None:
    """GRPOConfig's own checks pass, and it holds the values that were set."""
    made = GRPOConfig(**arguments(**choice))
    for name, value in choice.items():
        assert name == "rollouts" or getattr(made, name) == value


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"loss_type": "cispo"}, "set epsilon_high"),
        ({"loss_type": "sapo", "epsilon_high": 0.3}, "epsilon_high: does nothing with loss_type sapo"),
        ({"loss_type": "vespo", "delta": 2.0}, "delta: does nothing"),
        ({"vespo_k_pos": 1.0}, "vespo_k_pos: does nothing with loss_type dapo, only with vespo"),
        ({"loss_type": "luspo"}, "set importance_sampling_level to sequence"),
        ({"importance_sampling_level": "sequence"}, "set loss_type to grpo"),
        ({"entropy_target": 1.0}, "without use_adaptive_entropy"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "batch"},
            "scale_rewards: does nothing",
        ),
        ({"vllm_importance_sampling_clip_max": 2.0}, "does nothing with rollouts transformers"),
        ({"off_policy_mask_threshold": 0.5}, "with num_iterations 1"),
        ({"rollouts": "vllm", "loss_type": "vespo"}, "token_mask"),
        ({"rollouts": "vllm", "vllm_importance_sampling_clip_min": 4.0}, "must be below clip_max"),
        ({"soft_overlong_tokens": 512}, "must be below max_completion_length"),
    ],
    ids=str,
)
def test_what_would_be_without_effect_is_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RlConfig(**choice)


def test_soft_overlong_is_a_reward_of_trl() -> None:
    settings = RlConfig(soft_overlong_tokens=4, max_completion_length=10)
    assert RlConfig.model_validate(settings.model_dump()) == settings, "written out and read again it is the same"
    assert len(settings.rewards) == 6
    (reward,) = load_rewards(
        {key: settings.rewards[key] for key in list(settings.rewards)[:1]}, max_completion_length=10
    )
    ids = [[1] * 6, [1] * 8, [1] * 10]
    assert reward.function.reward.function(completion_ids=ids) == [0.0, -0.5, -1.0]
