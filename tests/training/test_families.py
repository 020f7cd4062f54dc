"""SFT, GRPO and the saved adapter on every kind of architecture: only active elements move, and plain PEFT loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorapar.adapter import AdapterSettings, attach, load_adapter, save_adapter
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import ModelConfig, RlConfig, SftConfig
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft
from lorapar.training.trainers import CarefulGRPOTrainer

# One of each kind of layer: Conv1D, fused and latent attention, two-matrix MLPs, a bias of positions, experts, linear
# attention, convolutions, a class whose backbone bears another name, names that PEFT takes for others (Laguna), a model
# that keeps nothing of a prompt (GPT-1), one that scales its embeddings in place and has its MLP in a list (CTRL),
# attention that chooses blocks or tokens by an indexer, streams beside the residual one (Qwen4-Exp, Dots3).
FAMILIES = (
    "gpt2", "phi3", "gpt_neox", "falcon", "bloom", "opt", "gptj", "mpt", "mixtral", "granitemoe", "gpt_oss",
    "deepseek_v3", "qwen3_next", "lfm2", "jamba", "llama4_text", "granitemoehybrid", "laguna",
    "openai-gpt", "ctrl", "qwen4_exp_text", "dots3_note_text",
)  # fmt: skip


@pytest.fixture
def family_job(make_job: Callable[..., TrainingJob], make_family, kit, tmp_path: Path) -> Callable[[str], TrainingJob]:
    """A job on a tiny model of the family with the tokenizer of `builtin:tiny`."""

    def make(family: str) -> TrainingJob:
        folder = tmp_path / family
        make_family(family).save_pretrained(folder)
        load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(folder)
        config = ModelConfig(name=str(folder), dtype="float32")
        model = attach(load_model(config), AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0)
        save_adapter(model, tmp_path / "start")
        shared = {"system1": 1.0, "system2": 1.0}
        kit.random_partition(model, shared).save(tmp_path / "partition.safetensors", {})
        return make_job("sft", model=config, adapter=tmp_path / "start", partition=tmp_path / "partition.safetensors")

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_tuned_by_both_methods_and_loads_in_plain_peft(family_job, make_job, kit, family: str) -> None:
    first = family_job(family)
    steps = {"max_steps": 1, "learning_rate": 1e-2}
    train_sft(first, SftConfig(batch_size=2, gradient_accumulation=1, **steps), system1=kit.words(4), system2=[])
    second = make_job("rl", model=first.model, adapter=first.output, partition=first.partition)
    settings = RlConfig(
        batch_size=4, gradient_accumulation=1, num_generations=2, max_completion_length=4, weight_decay=0.1, **steps
    )
    train_rl(second, settings, system1=[], system2=kit.sums(4))
    for job, system in ((first, "system1"), (second, "system2")):
        moved, active = kit.changed(job, system)
        assert not (moved & ~active).any()
        assert moved.any()

    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(first.model.name).eval()
        untouched = base(input_ids=ids).logits
        plain = PeftModel.from_pretrained(base, second.output).eval()(input_ids=ids).logits
        ours = load_adapter(load_model(first.model), second.output, trainable=False).eval()(input_ids=ids).logits
    assert torch.equal(plain, ours)
    assert not torch.equal(plain, untouched)


@pytest.mark.parametrize("family", ["gpt2", "xglm", "opt", "falcon"])
def test_learning_sees_prompts_where_sampling_saw_them(family_job, kit, monkeypatch, family: str) -> None:
    """Padding moves no position (GPT-2, XGLM know its number), and no dropout (XGLM, OPT, Falcon) is at work."""
    scored, moved = CarefulGRPOTrainer._get_per_token_logps_and_entropies, []

    def compare(trainer, model, ids, mask, length, *rest, **more):
        found = scored(trainer, model, ids, mask, length, *rest, **more)
        for row, kept in enumerate(mask.bool()):
            alone, own = ids[row][kept][None], int(kept[-length:].sum())
            expected = scored(trainer, model, alone, torch.ones_like(alone), own)[0][0]
            moved.append((found[0][row, :own] - expected).abs().max().item())
        return found

    monkeypatch.setattr(CarefulGRPOTrainer, "_get_per_token_logps_and_entropies", compare)
    job = family_job(family)
    job = replace(job, model=job.model.model_copy(update={"autocast": "none"}))
    rows = [row.model_copy(update={"question": row.question * (1 + n)}) for n, row in enumerate(kit.sums(4))]
    steps = {"max_steps": 1, "batch_size": 4, "gradient_accumulation": 1, "num_generations": 2}
    for share in (False, True):
        settings = RlConfig(share_prompts=share, max_completion_length=4, **steps)
        train_rl(job, settings, system1=[], system2=rows)
    assert len(moved) >= 8
    assert max(moved) < 1e-4
