"""rl: reinforcement learning (GRPO) of System 2's elements on System 2's rows, from the adapter SFT made.

summary.json beside the adapter and history.jsonl (one JSON object an optimiser step) tells what that of sft tells, and:

rollouts.jsonl holds some completions of every step (`lorapar.training.watch`).

reward_first, reward_last                          mean weighed reward of the first and the last fifth of the steps
completion_length_first, completion_length_last    the same for tokens a completion
kl_first, kl_last, reference                       the same for the distance to the reference model, where there is one
steps_without_signal                               steps in which all completions of each prompt had the same reward
reward_weights                                     the rewards and their weights
stalls                                             steps in a row that were all cut off, all alike or without entropy
judged                                             by judge: completions asked about, known, and without a say

With `rl.filter` only rows are learned from that the adapter which came in neither always nor never solves:
pass_rates.jsonl has `id`, `solved` and `samples` of every row asked about, and `filter` in summary.json the counts.

With `rl.score_again` partition.safetensors is the one that RL trained by, and `scored_again` in summary.json tells
`rank_correlation` of the scores before and after SFT, and `jaccard` of the sets, by system.

Where `phases` has SFT after RL or both at once, SFT happens here too: summary.json then holds SFT's under `sft`, and
sft_history.jsonl its steps. What a phase made is in scratch until all have ended.

Where `phases` names systems, `phases` in summary.json tells of each phase of this node, and the rest of the last RL.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorapar.comparing import answer_rule
from lorapar.config import SYSTEMS, Comparison, ExecuteConfig, PartitionConfig, RlConfig, ScoreConfig, SftConfig
from lorapar.config.systems import slot_of
from lorapar.config.training import PhaseConfig, Phases
from lorapar.imports import TRAINING_LIBRARIES, import_at_once
from lorapar.progress import log_omissions
from lorapar.records import OMISSIONS, Omission, omissions_of, read_json, write_json, write_records
from lorapar.stages import partition, score, sft
from lorapar.stages.contract import Metrics, StageCall, StageSpec
from lorapar.stages.phases import METRICS, Part, run_once, train_in_turn
from lorapar.stages.processes import process_count, run_in_processes
from lorapar.stages.tuning import INPUTS, TuningSettings, pass_on, rows_by_system, tuning_job
from lorapar.training.candidates import copy_candidates

_SUMMARY = "summary.json"


class Settings(TuningSettings):
    """The base model, how rows are asked, how RL goes, and how answers are compared."""

    rl: RlConfig
    answers: Comparison = "exact"
    execute: ExecuteConfig = ExecuteConfig()
    """The sandbox of `passes_tests`."""
    trains: Phases = ("rl",)
    """What `phases` leaves to this node; empty: nothing."""
    sft: SftConfig | None = None
    """How SFT goes, where this node does it too."""
    score: ScoreConfig | None = None
    """How the adapter that SFT left is scored again (`rl.score_again`); None: it is not."""
    partition: PartitionConfig | None = None
    """How it is partitioned then."""


SPEC = StageSpec(
    name="rl",
    summary="tune System 2's elements by GRPO on System 2's rows",
    settings=Settings,
    inputs=INPUTS,
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the tuned adapter, its history and summary.json; a call that was stopped goes on from its checkpoint."""
    if not call.settings.trains:
        return pass_on(call, "phases has no RL")
    named = [phase for phase in call.settings.trains if isinstance(phase, PhaseConfig)]
    if named:
        return train_in_turn(call, named, "rl", _named_part)
    if call.settings.trains != ("rl",):
        return _with_sft(call)
    if call.settings.score is not None:
        return _scored_again(call)
    if call.settings.rl.filter is not None:
        return _filtered(call)
    if (processes := process_count(call, call.settings.rl)) > 1:
        return run_in_processes(SPEC.name, call, processes)
    import_at_once(*TRAINING_LIBRARIES, "lorapar.training.trainers")
    from lorapar.training.reward_tools import RewardTools
    from lorapar.training.rl import train_rl

    with answer_rule(call.settings.answers) as rule:
        tools = RewardTools(rule, call.cache, call.store, call.anew, call.settings.execute)
        system = call.settings.system or SYSTEMS[1]
        job, rows = tuning_job(call, SPEC.name), rows_by_system(call)
        return train_rl(job, call.settings.rl, system=system, tools=tools, **rows)


def _with_sft(call: StageCall[Settings]) -> Metrics:
    """RL and then SFT, or both from the same start, whose changes are added."""
    from lorapar.adapter import add_changes, copy_adapter

    start, output = call.input("adapter"), call.output("adapter")
    kept = call.settings.model_copy(update={"candidates": 0})  # candidates are of the last phase
    after_rl = _phase(replace(call, settings=kept), "rl", start)
    together = call.settings.trains == ("sft+rl",)
    after_sft = _phase(call, "sft", start if together else after_rl)
    if together:
        add_changes(start, after_rl, after_sft, output)
    else:
        copy_adapter(after_sft, output)
        copy_candidates(after_sft, output)
    for name in ("history.jsonl", "rollouts.jsonl", "pass_rates.jsonl"):
        if (after_rl / name).is_file():
            shutil.copyfile(after_rl / name, output / name)
    shutil.copyfile(after_sft / "history.jsonl", output / "sft_history.jsonl")
    summaries = [read_json(folder / _SUMMARY) for folder in (after_rl, after_sft)]
    write_json(output / _SUMMARY, {**summaries[0], "sft": summaries[1]})
    of_sft = {f"sft_{key.removeprefix('sft_')}": value for key, value in read_json(after_sft / METRICS).items()}
    return {**read_json(after_rl / METRICS), **of_sft}


def _scored_again(call: StageCall[Settings]) -> Metrics:
    """RL with a partition of the adapter as SFT left it."""
    fresh = _partition_now(call)
    bare = call.settings.model_copy(update={"score": None, "partition": None})
    metrics = run(replace(call, settings=bare, inputs={**call.inputs, "partition": (fresh,)}))
    output = call.output("adapter")
    shutil.copyfile(fresh / "partition.safetensors", output / "partition.safetensors")
    comparison = partition.compared(call.input("partition"), fresh)
    write_json(output / _SUMMARY, {**read_json(output / _SUMMARY), "scored_again": comparison})
    flat = {f"rank_correlation_{system}": value for system, value in comparison["rank_correlation"].items()}
    return {**metrics, **flat, "jaccard_with_before": comparison["jaccard"]["system2"]}


def _filtered(call: StageCall[Settings]) -> Metrics:
    """RL on the rows that the adapter neither always nor never solves; they are asked for in one process."""
    from lorapar.training.pass_rates import RATES_FILE

    place = call.scratch / "filter"
    kept = {"kept": place / "kept"}
    part = StageCall(**{**vars(call), "outputs": kept, "scratch": place / "work"})
    if not run_once(call, _chosen_rows, part, kept["kept"]):
        call.progress.log("rl.filter has chosen the rows before, and they are kept")
    chosen = read_json(kept["kept"] / _SUMMARY)
    log_omissions(call.progress, [Omission.model_validate(one) for one in chosen[OMISSIONS]])
    bare = call.settings.model_copy(update={"rl": call.settings.rl.model_copy(update={"filter": None})})
    rows: dict[str, tuple[Path, ...]] = {place: (kept["kept"] / place,) for place in SYSTEMS}
    metrics = run(replace(call, settings=bare, inputs={**call.inputs, **rows}))
    output = call.output("adapter")
    shutil.copyfile(kept["kept"] / RATES_FILE, output / RATES_FILE)
    summary = read_json(output / _SUMMARY)
    omitted = [*chosen[OMISSIONS], *summary.get(OMISSIONS, ())]
    write_json(output / _SUMMARY, {**summary, "filter": chosen["filter"], OMISSIONS: omitted})
    return {**metrics, **read_json(kept["kept"] / METRICS)}


def _chosen_rows(call: StageCall[Settings]) -> Metrics:
    """Rows of each system as RL reads them, without those that rl.filter leaves out; the metrics in summary.json."""
    from lorapar.training.pass_rates import RATES_FILE, filter_rows
    from lorapar.training.reward_tools import RewardTools

    made, rows = call.output("kept"), rows_by_system(call)
    with answer_rule(call.settings.answers) as rule:
        tools = RewardTools(rule, call.cache, call.store, call.anew, call.settings.execute)
        system = call.settings.system or SYSTEMS[1]
        job = tuning_job(call, SPEC.name, output="kept")
        kept = filter_rows(job, call.settings.rl, system=system, tools=tools, **rows)
    for name, examples in rows.items():
        place, file = slot_of(call.settings.system_names, name)
        (made / place).mkdir(exist_ok=True)
        write_records(made / place / file, [one for one in examples if one.id not in kept.ids])
    write_records(made / RATES_FILE, kept.rates)
    write_json(made / _SUMMARY, {"filter": kept.document(), OMISSIONS: omissions_of(*kept.omissions())})
    return kept.metrics()


def _partition_now(call: StageCall[Settings]) -> Path:
    """A folder in scratch with the partition of the adapter that came in; what is finished is not made again."""
    settings, place = call.settings, call.scratch / "again"
    folders = {system: place / f"scores-{system}" for system in SYSTEMS}
    for system, folder in folders.items():
        own = score.Settings.model_validate(
            {**{name: getattr(settings, name) for name in ("model", "prompts", "score", "seed")}, "system": system}
        )
        inputs = {"adapter": call.inputs["adapter"], "rows": call.inputs[system]}
        run_once(call, score.run, _part(call, own, inputs, {"scores": folder}), folder)
    chosen = partition.Settings.model_validate({"partition": settings.partition, "seed": settings.seed})
    made = place / "partition"
    scores = {"scores": tuple(folders.values())}
    run_once(call, partition.run, _part(call, chosen, scores, {"partition": made}), made)
    return made


def _part(
    call: StageCall[Settings], settings: Any, inputs: dict[str, tuple[Path, ...]], outputs: dict[str, Path]
) -> StageCall[Any]:
    """Another stage's call into a folder of scratch, with a scratch folder beside it."""
    (made,) = outputs.values()
    changed = {"settings": settings, "inputs": inputs, "outputs": outputs}
    return StageCall(**{**vars(call), **changed, "scratch": made.with_name(f"{made.name}-work")})


def _phase(call: StageCall[Settings], method: str, adapter: Path) -> Path:
    """What a phase makes of an adapter, a folder in scratch; one that has ended is not trained again."""
    place = call.scratch / method
    made = place / "adapter"
    inputs = {**call.inputs, "adapter": (adapter,)}
    one = replace(call, inputs=inputs, outputs={"adapter": made}, scratch=place / "work")
    ran = run_once(call, run, _of_rl(one), made) if method == "rl" else run_once(call, sft.run, _of_sft(one), made)
    if not ran:
        call.progress.log(f"the phase {method} has ended before and is kept")
    return made


def _of_rl(call: StageCall[Settings]) -> StageCall[Settings]:
    return replace(call, settings=call.settings.model_copy(update={"trains": ("rl",), "sft": None}))


def _of_sft(call: StageCall[Settings]) -> StageCall[sft.Settings]:
    own = call.settings
    shared = {key: getattr(own, key) for key in ("model", "prompts", "seed", "system_names", "system", "candidates")}
    settings = sft.Settings(sft=own.sft or SftConfig(), **shared)
    return StageCall(**{**vars(call), "settings": settings})


def _named_part(call: StageCall[Settings], phase: PhaseConfig) -> Part:
    """One phase as a call of its own, of this stage or of sft."""
    section = getattr(call.settings, phase.method) or SftConfig()
    own = {"system": phase.system, phase.method: phase.of(section)}
    one = replace(call, settings=call.settings.model_copy(update=own))
    return (run, _of_rl(one)) if phase.method == "rl" else (sft.run, _of_sft(one))
