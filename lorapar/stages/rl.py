"""rl: reinforcement learning (GRPO) of System 2's elements on System 2's rows, from the adapter SFT made.

summary.json beside the adapter and history.jsonl (one JSON object an optimiser step) tells what that of sft tells, and:

reward_first, reward_last                          mean weighed reward of the first and the last fifth of the steps
completion_length_first, completion_length_last    the same for tokens a completion
kl_first, kl_last, reference                       the same for the distance to the reference model, where there is one
steps_without_signal                               steps in which all completions of each prompt had the same reward
reward_weights                                     the rewards and their weights
"""

from __future__ import annotations

from lorapar.config import ModelConfig, PromptConfig, RlConfig
from lorapar.records import Example, read_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """The base model, how rows are asked, and how RL goes."""

    model: ModelConfig
    prompts: PromptConfig
    rl: RlConfig
    seed: int


SPEC = StageSpec(
    name="rl",
    summary="tune System 2's elements by GRPO on System 2's rows",
    settings=Settings,
    inputs=("adapter", "partition", "system1", "system2"),
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the tuned adapter, its history and summary.json."""
    from lorapar.training.rl import train_rl
    from lorapar.training.session import TrainingJob

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
    return train_rl(job, settings.rl, system1=system1, system2=system2)
