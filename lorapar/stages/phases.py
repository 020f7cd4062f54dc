"""Several phases of training in one node: each in scratch, from what the one before made, and none of them twice.

The graph has the nodes `sft` and `rl` whatever the phases are: `sft` trains those that stand before the first RL, `rl`
all that are left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lorapar.config.training import PhaseConfig, phase_text
from lorapar.errors import IntegrityError
from lorapar.records import read_json, write_json
from lorapar.stages.contract import Metrics, StageCall
from lorapar.store import seal, verify
from lorapar.training.candidates import copy_candidates

METRICS = "metrics.json"
_KEPT = ("history.jsonl", "rollouts.jsonl", "pass_rates.jsonl")
Part = tuple[Callable[[StageCall[Any]], Metrics], StageCall[Any]]


def run_once(call: StageCall[Any], run_it: Callable[[Any], Metrics], part: StageCall[Any], made: Path) -> bool:
    """Run a stage whose output is in scratch, unless it has ended there before; whether it ran now."""
    try:
        verify(made)
    except IntegrityError:
        shutil.rmtree(made, ignore_errors=True)
    else:
        return False
    for folder in (made, part.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(made / METRICS, run_it(part))
    seal(made, "phase.part")
    shutil.rmtree(part.scratch)
    call.keeper.keep()
    return True


def train_in_turn(
    call: StageCall[Any],
    phases: Sequence[PhaseConfig],
    method: str,
    part_of: Callable[[StageCall[Any], PhaseConfig], Part],
) -> Metrics:
    """Train named phases one after another; the output is the adapter that the last one left.

    Figures, history and rollouts are those of the last phase by the node's own method; summary.json lists all phases
    under `phases`, and metrics have every phase's under `PLACE_SYSTEM_METHOD_`, where several are trained.
    """
    from lorapar.adapter import copy_adapter

    adapter, summaries = call.input("adapter"), []
    metrics: Metrics = {}
    shown = max(place for place, phase in enumerate(phases) if phase.method == method)
    folders: list[Path] = []
    for place, phase in enumerate(phases):
        folder = call.scratch / f"{place + 1}-{phase.system}-{phase.method}"
        changed: dict[str, Any] = {
            "inputs": {**call.inputs, "adapter": (adapter,)},
            "outputs": {"adapter": folder / "adapter"},
        }
        if place + 1 < len(phases):  # candidates are of the last phase
            changed["settings"] = call.settings.model_copy(update={"candidates": 0})
        run_it, part = part_of(StageCall(**{**vars(call), **changed, "scratch": folder / "work"}), phase)
        adapter = folder / "adapter"
        if not run_once(call, run_it, part, adapter):
            call.progress.log(f"the phase {phase_text(phase)} has ended before and is kept")
        folders.append(adapter)
        own = {"settings": phase.settings} if phase.settings else {}
        summaries.append({"method": phase.method, **own, **read_json(adapter / "summary.json")})
        if len(phases) > 1:
            found = read_json(adapter / METRICS).items()
            metrics |= {f"{place + 1}_{phase.system}_{phase.method}_{key}": value for key, value in found}
    output = call.output("adapter")
    copy_adapter(adapter, output)
    copy_candidates(adapter, output)
    for name in _KEPT:
        if (folders[shown] / name).is_file():
            shutil.copyfile(folders[shown] / name, output / name)
    write_json(output / "summary.json", {**read_json(folders[shown] / "summary.json"), "phases": summaries})
    return {**read_json(folders[shown] / METRICS), **metrics}
