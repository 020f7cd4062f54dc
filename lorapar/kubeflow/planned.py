"""The work of `plan` in a pipeline: read its parameters, and work out each task's settings.

The settings go into the store, and a task gets their digest. The digest is their address there and decides whether
Kubeflow takes the task from its cache. So Kubeflow's own database holds no more for a hundred few-shot rows than for
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorapar.config import RunConfig
from lorapar.kubeflow.checks import check_nodes, check_webhook
from lorapar.kubeflow.executor_input import ExecutorInput
from lorapar.kubeflow.ledger import TaskSettings
from lorapar.kubeflow.parameter_values import gpu_pool_of, parallelism_of, run_config
from lorapar.kubeflow.takes import Takes, read_takes
from lorapar.kubeflow.tasks import LOOPED_NODE, TASKS, node_named, task_named
from lorapar.stages.plan import stage_settings
from lorapar.stages.plan_file import Plan
from lorapar.voting.ballots import Ballots

GPU_BACKEND = "vllm"
VOTE_NODES = (LOOPED_NODE, "vote-rest")


@dataclass(frozen=True)
class PlanCall:
    """The parameters of the pipeline, checked."""

    config: RunConfig
    gpu_pool: dict[str, str]
    parallelism: int
    vote_accelerators: str
    accelerators: Mapping[str, Takes] = field(default_factory=dict)
    """What every other task takes, by task; tasks that take none are left out."""


@dataclass(frozen=True)
class Lane:
    """One vote task: an item of the loop over the first round, or the whole second round."""

    node: str
    settings: dict[str, object]
    """Settings of the vote stage, as JSON."""
    accelerators: str
    """Accelerators the task takes; a text, because KFP's resources are texts."""


@dataclass(frozen=True)
class PlannedRun:
    """The settings and resources of a run's tasks."""

    lanes: dict[str, list[Lane]]
    """The vote tasks of each round, by node."""
    settings: dict[str, TaskSettings]
    """The settings of every other task's nodes, by task."""
    accelerators: Mapping[str, Takes]
    """What every other task takes, by task."""
    vote_pool: dict[str, str]
    """Labels of the nodes that vote tasks run on; none where no teacher needs an accelerator."""


def plan_call(given: ExecutorInput) -> PlanCall:
    """Read the parameters; raises BadInputError that names the wrong one, or the setting that it stands for."""
    values = given.inputs.parameter_values
    check_webhook(given.text("webhook", ""))
    config, accelerators = run_config(values), read_takes(values.get("accelerators") or {})
    check_nodes(config, accelerators, given.text("store", ""))
    return PlanCall(
        config=config,
        gpu_pool=gpu_pool_of(values.get("gpu_pool") or {}),
        parallelism=parallelism_of(values.get("parallelism", 4)),
        vote_accelerators=given.text("vote_accelerators", "1"),
        accelerators=accelerators,
    )


def planned_run(plan: Plan, call: PlanCall) -> PlannedRun:
    """Work out the settings and resources of each task."""
    rounds = {name: lanes(plan.config, call, name) for name in VOTE_NODES}
    (rest,) = rounds["vote-rest"]
    settings = {
        task.name: {
            node.name: rest.settings if node.name == rest.node else plan.sections[node.name] for node in task.nodes
        }
        for task in TASKS
        if task.name not in ("plan", LOOPED_NODE, "report")
    }
    on_gpu = any(lane.accelerators != "0" for shared_out in rounds.values() for lane in shared_out)
    return PlannedRun(rounds, settings, call.accelerators, call.gpu_pool if on_gpu else {})


def lanes(config: RunConfig, call: PlanCall, node: str) -> list[Lane]:
    """The vote tasks of a round: at most `parallelism` in the first, one in the second.

    The second round reads only rows that the first leaves undecided, and its task also tallies. In the first round,
    teachers that need an accelerator share no task with others. There is always one task, even without a teacher to
    ask: KFP does not finish a loop over nothing.
    """
    ballots = Ballots(config.teachers, config.voting, config.system_names)
    names = ballots.round_teachers(str(node_named(node).parameters["round"]))
    backends = {teacher.name: teacher.backend for teacher in config.teachers}
    on_gpu = [name for name in names if backends[name] == GPU_BACKEND]
    others = [name for name in names if backends[name] != GPU_BACKEND]
    parallelism = call.parallelism if node == LOOPED_NODE else 1
    if parallelism == 1:
        groups = [(list(names), bool(on_gpu))]
    else:
        room = max(1, parallelism - min(1, len(others)))
        gpu_groups = _divided(on_gpu, room)
        groups = [(group, True) for group in gpu_groups]
        groups += [(group, False) for group in _divided(others, max(1, parallelism - len(gpu_groups)))]
    groups = groups or [([], False)]
    return [_lane(config, node, group, call.vote_accelerators if gpu else "0") for group, gpu in groups]


def _lane(config: RunConfig, node: str, asked: Sequence[str], accelerators: str) -> Lane:
    parameters = {**node_named(node).parameters, "asked": tuple(asked)}
    settings = stage_settings(config, task_named(node).stage, parameters)
    return Lane(node, settings.model_dump(mode="json"), accelerators)


def _divided(names: Sequence[str], groups: int) -> list[list[str]]:
    """The names in at most this many groups, in order and as even as possible."""
    count = min(groups, len(names))
    return [list(names[number::count]) for number in range(count)]
