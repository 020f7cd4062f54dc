"""sft: supervised tuning of System 1's elements on System 1's rows.

summary.json beside the adapter and history.jsonl (one JSON object an optimiser step):

loss_first, loss_last          mean loss of the first and the last fifth of the steps
rows, left_out                 rows trained on by system, and why others were left out
warmup_ids, warmup_repeats     System 2 rows mixed in so that RL starts with some reward
loss_average                   what the loss is a mean over: tokens or rows
steps                          optimiser steps
tokens_read                    of all rows that these steps saw, prompts and answers
elements, active_elements, active_fraction, moved_elements     of the adapter; those trained; those that changed
moment_bytes, index_bytes      what the optimiser keeps
base_weights_sha256            of the base model, the same before and after
trl, versions, seed            every setting TRL got, and the libraries' versions
processes                      how many trained together
phases                         where `phases` names systems, each phase of this node; the rest is of the last one
"""

from __future__ import annotations

from dataclasses import replace

from lorapar.config import SYSTEMS, SftConfig
from lorapar.config.training import PhaseConfig, Phases
from lorapar.imports import TRAINING_LIBRARIES, import_at_once
from lorapar.stages.contract import Metrics, StageCall, StageSpec
from lorapar.stages.phases import Part, train_in_turn
from lorapar.stages.processes import process_count, run_in_processes
from lorapar.stages.tuning import INPUTS, TuningSettings, pass_on, rows_by_system, tuning_job


class Settings(TuningSettings):
    """The base model, how rows are asked, and how SFT goes."""

    sft: SftConfig
    trains: Phases = ("sft",)
    """Empty where `phases` begins with something else: the adapter passes through as it is."""


SPEC = StageSpec(
    name="sft",
    summary="tune System 1's elements on System 1's rows",
    settings=Settings,
    inputs=INPUTS,
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the tuned adapter, its history and summary.json; a call that was stopped goes on from its checkpoint."""
    if not call.settings.trains:
        return pass_on(call, "phases does not begin with sft")
    named = [phase for phase in call.settings.trains if isinstance(phase, PhaseConfig)]
    if named:
        return train_in_turn(call, named, "sft", _part)
    if (processes := process_count(call, call.settings.sft)) > 1:
        return run_in_processes(SPEC.name, call, processes)
    import_at_once(*TRAINING_LIBRARIES, "lorapar.training.trainers")
    from lorapar.training.sft import train_sft

    system = call.settings.system or SYSTEMS[0]
    return train_sft(tuning_job(call, SPEC.name), call.settings.sft, system=system, **rows_by_system(call))


def _part(call: StageCall[Settings], phase: PhaseConfig) -> Part:
    """One phase as a call of its own."""
    own = {"trains": ("sft",), "system": phase.system, "sft": phase.of(call.settings.sft)}
    settings = call.settings.model_copy(update=own)
    return run, replace(call, settings=settings)
