"""rl: reinforcement learning (GRPO) of System 2's elements on System 2's rows, from the adapter SFT made.

summary.json beside the adapter and history.jsonl (one JSON object an optimiser step) tells what that of sft tells, and:

rollouts.jsonl holds some completions of every step (`lorapar.training.rl_watch`).

reward_first, reward_last                          mean weighed reward of the first and the last fifth of the steps
completion_length_first, completion_length_last    the same for tokens a completion
kl_first, kl_last, reference                       the same for the distance to the reference model, where there is one
steps_without_signal                               steps in which all completions of each prompt had the same reward
reward_weights                                     the rewards and their weights
stalls                                             steps on end that were all cut off, all alike or without entropy
judged                                             by judge: completions asked about, known, and without a say
"""

from __future__ import annotations

from lorapar.comparing import answer_rule
from lorapar.config import Comparison, ExecuteConfig, RlConfig
from lorapar.stages.contract import Metrics, StageCall, StageSpec
from lorapar.stages.processes import process_count, run_in_processes
from lorapar.stages.tuning import INPUTS, TuningSettings, rows_by_system, tuning_job


class Settings(TuningSettings):
    """The base model, how rows are asked, how RL goes, and how answers are compared."""

    rl: RlConfig
    answers: Comparison = "exact"
    execute: ExecuteConfig = ExecuteConfig()
    """The sandbox of `passes_tests`."""


SPEC = StageSpec(
    name="rl",
    summary="tune System 2's elements by GRPO on System 2's rows",
    settings=Settings,
    inputs=INPUTS,
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the tuned adapter, its history and summary.json; a call that was stopped goes on from its checkpoint."""
    from lorapar.training.reward_tools import RewardTools
    from lorapar.training.rl import train_rl

    if (processes := process_count(call, call.settings.rl)) > 1:
        return run_in_processes(SPEC.name, call, processes)
    with answer_rule(call.settings.answers) as rule:
        tools = RewardTools(rule, call.cache, call.store, call.settings.execute)
        return train_rl(tuning_job(call, SPEC.name), call.settings.rl, tools=tools, **rows_by_system(call))
