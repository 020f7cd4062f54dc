"""sft: supervised tuning of System 1's elements on System 1's rows.

summary.json beside the adapter and history.jsonl (one JSON object an optimiser step):

loss_first, loss_last          mean loss of the first and the last fifth of the steps
rows, left_out                 rows trained on by system, and why others were left out
warmup_ids, warmup_repeats     System 2 rows mixed in so that RL starts with some reward
loss_average                   what the loss is a mean over: tokens or rows
steps                          optimiser steps
elements, active_elements, active_fraction, moved_elements     of the adapter; those trained; those that changed
moment_bytes, index_bytes      what the optimiser keeps
base_weights_sha256            of the base model, the same before and after
trl, versions, seed            every setting TRL got, and the libraries' versions
"""

from __future__ import annotations

from lorapar.config import ModelConfig, PromptConfig, SftConfig
from lorapar.records import Example, read_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """The base model, how rows are asked, and how SFT goes."""

    model: ModelConfig
    prompts: PromptConfig
    sft: SftConfig
    seed: int


SPEC = StageSpec(
    name="sft",
    summary="tune System 1's elements on System 1's rows",
    settings=Settings,
    inputs=("adapter", "partition", "system1", "system2"),
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the tuned adapter, its history and summary.json."""
    from lorapar.training.session import TrainingJob
    from lorapar.training.sft import train_sft

    settings = call.settings
    job = TrainingJob(
        model=settings.model,
        prompts=settings.prompts,
        seed=settings.seed,
        adapter=call.input("adapter"),
        partition=call.input("partition") / "partition.safetensors",
        output=call.output("adapter"),
        scratch=call.scratch,
        progress=call.progress,
    )
    system1, system2 = (
        list(read_records(call.input(system) / "examples.jsonl", Example)) for system in ("system1", "system2")
    )
    return train_sft(job, settings.sft, system1=system1, system2=system2)
