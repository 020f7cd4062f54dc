"""What the stages sft and rl have in common: the same inputs, and the job they become."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from lorapar.config import SYSTEMS, ModelConfig, PromptConfig
from lorapar.config.systems import slot_of
from lorapar.ranks import Ranks
from lorapar.records import Example, System, read_json, read_records, write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings
from lorapar.training.candidates import copy_candidates

if TYPE_CHECKING:
    from lorapar.training.session import TrainingJob

INPUTS = ("adapter", "partition", "system1", "system2")


class TuningSettings(StageSettings):
    """The base model and how rows are asked; each stage adds the section of its own."""

    model: ModelConfig
    prompts: PromptConfig
    seed: int
    system_names: tuple[System, ...] = SYSTEMS
    system: System | None = None
    """Whose elements and rows; None: System 1's in SFT, System 2's in RL."""
    candidates: int = 0
    """Adapters of this node's last phase that are kept for `publish.pick: best`, the last one among them; 0: none."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A node that keeps none has the digest that it had before there were candidates."""
        values: dict[str, Any] = handler(self)
        return values if self.candidates else {key: value for key, value in values.items() if key != "candidates"}


def tuning_job(call: StageCall[Any], stage: str, output: str = "adapter") -> TrainingJob:
    """What to work on and where to write, from the settings (a TuningSettings), inputs and outputs of the call."""
    from lorapar.training.session import TrainingJob

    return TrainingJob(
        model=call.settings.model,
        prompts=call.settings.prompts,
        seed=call.settings.seed,
        adapter=call.input("adapter"),
        partition=call.input("partition") / "partition.safetensors",
        output=call.output(output),
        scratch=call.scratch,
        progress=call.progress,
        keeper=call.keeper,
        sharded=call.sharding == "fsdp2" and Ranks.here().count > 1,
        candidates=call.settings.candidates,
        trackers=partial(call.origin.tracking.callbacks, stage) if call.origin.tracking else list,
    )


def rows_by_system(call: StageCall[Any]) -> dict[str, list[Example]]:
    """The training rows of each system."""
    names = call.settings.system_names
    places = {system: slot_of(names, system) for system in names}
    return {system: list(read_records(call.input(slot) / file, Example)) for system, (slot, file) in places.items()}


def pass_on(call: StageCall[Any], reason: str) -> Metrics:
    """The adapter as it came in, where this node trains nothing: no history, and a summary of no step."""
    from lorapar.adapter import copy_adapter

    source, output = call.input("adapter"), call.output("adapter")
    call.progress.log(f"trains nothing: {reason}")
    copy_adapter(source, output)
    copy_candidates(source, output)
    found = read_json(source / "summary.json") if (source / "summary.json").is_file() else {}
    base = {key: found[key] for key in ("base_weights_sha256", "asking") if key in found}
    write_json(output / "summary.json", {"steps": 0, "active_elements": 0, "moved_elements": 0, **base})
    return {"steps": 0.0, "active_elements": 0.0}
