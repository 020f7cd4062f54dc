"""Masked training inside TRL's own trainers: SFT, then GRPO, on a tiny random model."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from lorapar.adapter import (
    assert_trainable,
    base_digest,
    check_only_active_moved,
    lora_parameters,
    masked_training,
    snapshot,
)

RANK = 4
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
COMMON = {
    "max_grad_norm": 0.1,
    "gradient_accumulation_steps": 2,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "lr_scheduler_type": "cosine",
}


def sft_rows(count):
    return Dataset.from_list(
        [{"prompt": f"w{5 + i} w{9 + i}", "completion": f" w{20 + i % 7} w{30 + i % 5}"} for i in range(count)]
    )


def reward_for_many_words(completions, **columns):
    """A reward that differs within a group, so that there is something to learn."""
    return [float(len(set(text.split()))) for text in completions]


def make_sft(model, tokenizer, optimizer, folder, **options):
    settings = {"max_steps": 3, "save_strategy": "no", **options}
    config = SFTConfig(str(folder), per_device_train_batch_size=2, max_length=16, **COMMON, **settings)
    return SFTTrainer(
        model, config, train_dataset=sft_rows(24), processing_class=tokenizer, optimizers=(optimizer, None)
    )


def make_grpo(model, tokenizer, optimizer, folder, **options):
    settings = {"max_steps": 2, "save_strategy": "no", "beta": 0.0, **options}
    config = GRPOConfig(
        str(folder), per_device_train_batch_size=4, num_generations=4, max_completion_length=6, **COMMON, **settings
    )
    rows = Dataset.from_list([{"prompt": f"w{5 + i} w{40 + i}"} for i in range(16)])
    return GRPOTrainer(
        model, reward_for_many_words, config, rows, processing_class=tokenizer, optimizers=(optimizer, None)
    )


@pytest.fixture
def trained(make_adapter, random_mask, tokenizer, tmp_path):
    """Runs one trainer under a mask and checks everything that must hold after it."""

    def run(make_trainer, dropout=0.05, **options):
        model = make_adapter(rank=RANK, dropout=dropout)
        mask, before, digest = random_mask(model, RANK), snapshot(model), base_digest(model)
        with masked_training(model, mask) as masked:
            trainer = make_trainer(model, tokenizer, masked.optimizer(**SETTINGS), tmp_path, **options)
            assert masked.undo_casts() == []
            assert_trainable(trainer.model)
            trainer.train()
        moved = check_only_active_moved(before, snapshot(model), mask, RANK)
        assert moved.moved > 0.9 * moved.active
        assert base_digest(model) == digest
        return trainer, model

    return run


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_sft_trains_the_mask_and_nothing_else(trained):
    trainer, _ = trained(make_sft)
    assert len(logged(trainer, "loss")) == 3
    assert all(norm > 0 for norm in logged(trainer, "grad_norm"))
    assert logged(trainer, "learning_rate")[0] == SETTINGS["lr"]  # our rate, the trainer's own schedule
    assert logged(trainer, "learning_rate")[-1] < SETTINGS["lr"]


def test_sft_lowers_the_loss(trained):
    losses = logged(trained(make_sft, dropout=0.0, max_steps=20)[0], "loss")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_grpo_trains_the_mask_and_nothing_else(trained, beta):
    _, model = trained(make_grpo, beta=beta)
    assert ("ref" in model.peft_config) == (beta != 0)


def test_grpos_reference_adapter_keeps_its_values(make_adapter, random_mask, tokenizer, tmp_path):
    model = make_adapter(rank=RANK)
    start = snapshot(model)
    with masked_training(model, random_mask(model, RANK)) as masked:
        trainer = make_grpo(model, tokenizer, masked.optimizer(**SETTINGS), tmp_path, beta=0.1)
        trainer.train()
    assert all(torch.equal(start[name], p) for name, p in lora_parameters(model, "ref").items())


def test_sft_then_grpo_share_one_adapter(make_adapter, random_mask, tokenizer, tmp_path):
    model = make_adapter(rank=RANK)
    digest = base_digest(model)
    for stage, (make_trainer, seed) in enumerate([(make_sft, 0), (make_grpo, 1)]):
        mask, before = random_mask(model, RANK, seed=seed), snapshot(model)
        with masked_training(model, mask) as masked:
            make_trainer(model, tokenizer, masked.optimizer(**SETTINGS), tmp_path / str(stage)).train()
        check_only_active_moved(before, snapshot(model), mask, RANK)
    assert base_digest(model) == digest


def test_a_trainers_checkpoint_resumes_to_the_same_adapter(make_adapter, random_mask, tokenizer, tmp_path):
    def run(folder, resume):
        model = make_adapter(rank=RANK)
        with masked_training(model, random_mask(model, RANK)) as masked:
            options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
            trainer = make_sft(model, tokenizer, masked.optimizer(**SETTINGS), tmp_path / folder, **options)
            trainer.train(resume_from_checkpoint=str(tmp_path / resume) if resume else None)
        return snapshot(model)

    straight = run("straight", None)
    resumed = run("resumed", "straight/checkpoint-2")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_bfloat16_base_keeps_a_float32_adapter(make_base, random_mask, tokenizer, tmp_path):
    from lorapar.adapter import AdapterSettings, attach

    model = attach(make_base(dtype=torch.bfloat16), AdapterSettings(rank=RANK), seed=0)
    mask, before, digest = random_mask(model, RANK), snapshot(model), base_digest(model)
    with masked_training(model, mask) as masked:
        make_sft(model, tokenizer, masked.optimizer(**SETTINGS), tmp_path).train()
    check_only_active_moved(before, snapshot(model), mask, RANK)
    assert base_digest(model) == digest
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(model).values())
