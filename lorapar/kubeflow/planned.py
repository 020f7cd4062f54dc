"""What `plan` does for a pipeline: read its parameters, and hand each stage its own settings as one JSON parameter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from lorapar.config import RunConfig
from lorapar.errors import BadInputError
from lorapar.kubeflow.executor_input import ExecutorInput
from lorapar.kubeflow.parameter_values import gpu_pool_of, parallelism_of, run_config
from lorapar.kubeflow.ports import LOOPED_STAGE, settings_parameter
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import Plan
from lorapar.voting.ballots import Ballots

GPU_BACKEND = "vllm"
PARAMETER_LIMIT_BYTES = 128 * 1024
"""Kubernetes keeps parameters in its own database; far larger ones are refused there without a clear word."""


@dataclass(frozen=True)
class PlanCall:
    """The parameters of the pipeline, checked."""

    config: RunConfig
    gpu_pool: dict[str, str]
    parallelism: int
    vote_accelerators: str


class Lane(BaseModel):
    """What one vote task does: an item of the loop over a round."""

    model_config = ConfigDict(frozen=True)

    settings: str
    """Settings of the vote stage, as JSON."""
    accelerators: str
    """Accelerators the task takes; a text, because that is what KFP's resources are."""


def plan_call(given: ExecutorInput) -> PlanCall:
    """Read the parameters; raises BadInputError that begins with the name of the one that is wrong."""
    values = given.inputs.parameter_values
    return PlanCall(
        config=run_config(values),
        gpu_pool=gpu_pool_of(values.get("gpu_pool") or {}),
        parallelism=parallelism_of(values.get("parallelism", 4)),
        vote_accelerators=given.text("vote_accelerators", "1"),
    )


def lanes(config: RunConfig, call: PlanCall, round_name: str) -> list[Lane]:
    """The vote tasks of a round, at most `parallelism` of them.

    Teachers that need an accelerator do not share a task with others. There is always one task, which may have nobody
    to ask: KFP does not finish a loop over nothing.
    """
    names = Ballots(config.teachers, config.voting).round_teachers(round_name)
    backends = {teacher.name: teacher.backend for teacher in config.teachers}
    on_gpu = [name for name in names if backends[name] == GPU_BACKEND]
    others = [name for name in names if backends[name] != GPU_BACKEND]
    if call.parallelism == 1 and on_gpu and others:
        groups = [(list(names), True)]
    else:
        room = max(1, call.parallelism - min(1, len(others)))
        gpu_groups = _dealt(on_gpu, room)
        groups = [(group, True) for group in gpu_groups]
        groups += [(group, False) for group in _dealt(others, max(1, call.parallelism - len(gpu_groups)))]
    return [_lane(config, round_name, group, call.vote_accelerators if gpu else "0") for group, gpu in groups] or [
        _lane(config, round_name, [], "0")
    ]


def plan_outputs(plan: Plan, call: PlanCall) -> dict[str, Any]:
    """The output parameters of the task `plan`; raises BadInputError where one is too large for Kubernetes."""
    found: dict[str, Any] = {}
    uses_gpu = False
    for node in GRAPH:
        if node.stage == LOOPED_STAGE:
            shared_out = lanes(plan.config, call, str(node.parameters["round"]))
            found[settings_parameter(node.name)] = [lane.model_dump() for lane in shared_out]
            uses_gpu = uses_gpu or any(lane.accelerators != "0" for lane in shared_out)
        elif node.stage not in ("plan", "report"):
            found[settings_parameter(node.name)] = json.dumps(plan.sections[node.name], sort_keys=True)
    for name, value in found.items():
        size = len(json.dumps(value).encode())
        if size > PARAMETER_LIMIT_BYTES:
            raise BadInputError(
                f"config: the settings of {name} have {size:,} bytes as JSON, more than the {PARAMETER_LIMIT_BYTES:,} "
                "that Kubeflow carries safely as a parameter; shorten templates and few-shot rows"
            )
    found["vote_pool"] = call.gpu_pool if uses_gpu else {}
    return found


def _lane(config: RunConfig, round_name: str, asked: Sequence[str], accelerators: str) -> Lane:
    from lorapar.stages.plan import stage_settings

    settings = stage_settings(config, LOOPED_STAGE, {"round": round_name, "asked": tuple(asked)})
    return Lane(settings=json.dumps(settings.model_dump(mode="json"), sort_keys=True), accelerators=accelerators)


def _dealt(names: Sequence[str], groups: int) -> list[list[str]]:
    """The names in at most so many groups, in their order, as even as can be."""
    count = min(groups, len(names))
    return [list(names[number::count]) for number in range(count)]
