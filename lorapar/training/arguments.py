"""Every setting that TRL gets, written out: its defaults differ between trainers and change between versions.

With the learning-rate schedules of transformers, changed so that every step learns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler
from trl import GRPOConfig, SFTConfig

from lorapar.config import ModelConfig, RlConfig, SftConfig
from lorapar.config.rollouts import ENGINES
from lorapar.training.rewards import Reward

Arguments = TypeVar("Arguments", SFTConfig, GRPOConfig)


def for_one_device(arguments: Arguments) -> Arguments:
    """The same arguments for this one process, which trains on one device however many are visible.

    Without a launcher transformers 5.23 would wrap the model in DataParallel over every visible GPU, and the trainers
    of TRL 1.16 refuse that with a ValueError once they are built.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def sft_arguments(config: SftConfig, model: ModelConfig, seed: int, scratch: Path) -> dict[str, Any]:
    """Arguments of trl.SFTConfig."""
    return {
        **_common(config, model, seed, scratch),
        "max_length": config.max_length,
        "truncation_mode": "keep_start",
        "completion_only_loss": True,
        "assistant_only_loss": False,
        "loss_type": "nll",
        "packing": False,
        "padding_free": False,
        "shuffle_dataset": False,  # the data loader shuffles, again in every epoch
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
    }


def rl_arguments(
    config: RlConfig, model: ModelConfig, rewards: list[Reward], seed: int, scratch: Path
) -> dict[str, Any]:
    """Arguments of trl.GRPOConfig; who samples the completions is the trainer's affair (`rl.rollouts`)."""
    return {
        **_common(config, model, seed, scratch),
        **config.trl(),
        "vllm_importance_sampling_correction": config.rollouts in ENGINES
        and config.vllm_importance_sampling_correction,
        "num_generations": config.num_generations,
        "steps_per_generation": config.gradient_accumulation,  # rollouts are made again for every optimiser step
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "use_vllm": False,  # would merge the adapter into the base; see lorapar.training.vllm_rollouts
        "beta": config.kl_beta,
        "sync_ref_model": False,
        "reward_weights": [reward.weight for reward in rewards],
        # Dropout would make policy, rollouts and reference different functions: the KL of equal models is 0 without.
        "disable_dropout": True,
        "shuffle_dataset": True,
        "remove_unused_columns": False,
        "log_completions": False,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
    }


def _common(config: SftConfig | RlConfig, model: ModelConfig, seed: int, scratch: Path) -> dict[str, Any]:
    return {
        "output_dir": str(scratch / "trainer"),
        "seed": seed,
        "data_seed": seed,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.scheduler,
        # A share of the steps; from 1 on transformers would take it for a number of them.
        "warmup_steps": min(config.warmup_ratio, 1 - 1e-9),
        "weight_decay": config.weight_decay,
        "adam_epsilon": 1e-8,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": model.autocast == "bfloat16",
        "fp16": False,
        "use_liger_kernel": False,
        "router_aux_loss_coef": 0.0,  # the routers of a mixture of experts are frozen, so there is nothing to balance
        "dataloader_num_workers": 0,
        "dataloader_drop_last": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
    }


def schedule(optimizer: torch.optim.Optimizer, *, name: str, rising: int, steps: int) -> LambdaLR:
    """The named schedule over `steps` optimiser steps, the first `rising` of them rising.

    transformers gives the first of the rising steps a learning rate of 0: a whole batch (in RL: all its rollouts)
    is computed and thrown away, and a run of one step trains nothing. Here step k of the rising ones has the rate
    k / (rising + 1) of the peak, and the last step of all is above 0 too.
    """
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    longer = get_scheduler(name, unused, num_warmup_steps=rising + 1, num_training_steps=steps + 1)
    rate_at = longer.lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: rate_at(step + 1))
