"""Jobs of RL on the tiny model, whose completions the real vLLM samples."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from lorapar.adapter import lora_parameters, partition_elements, trainable_slice
from lorapar.adapter.folder import save_adapter
from lorapar.config import ModelConfig, PromptConfig
from lorapar.progress import Progress
from lorapar.records import Example
from lorapar.training.session import TrainingJob

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
RANK, STEPS = 2, 3
EQUAL = 1e-3
"""Largest difference of log-probabilities by one adapter, nats."""
ROWS = [Example(id=f"s{n}", question=f"{n}+2?", answer=str(n + 2), reference=str(n + 2)) for n in range(6)]


def begin(folder: Path, model: PeftModel) -> None:
    """Write what a job begins with: the model's adapter, and a partition of random scores."""
    save_adapter(model, folder / "adapter")
    generator = torch.Generator().manual_seed(1)
    scores = {
        system: {
            name: torch.rand(trainable_slice(name, tensor, RANK).shape, generator=generator)
            for name, tensor in lora_parameters(model).items()
        }
        for system in ("system1", "system2")
    }
    partition = partition_elements(scores, theta=0.7, shared={"system1": 1.0, "system2": 1.0})
    partition.save(folder / "partition.safetensors", {})


def job_of(begun: Path, root: Path, progress: Progress, model: ModelConfig = BASE, seed: int = 0) -> TrainingJob:
    """A job that goes on from what `begin` wrote, in folders below `root`."""
    folders = [root / part for part in ("out", "scratch")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        model=model, prompts=PromptConfig(system2="Think."), seed=seed, adapter=begun / "adapter",
        partition=begun / "partition.safetensors", output=folders[0], scratch=folders[1], progress=progress,
    )  # fmt: skip
