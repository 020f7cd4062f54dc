"""The work of `plan` in a pipeline: read its parameters, work out each task's settings, and show the tasks on a page.

The settings go into the store, and a task gets their digest. The digest is their address there and decides whether
Kubeflow takes the task from its cache. So Kubeflow's own database holds no more for a hundred few-shot rows than for
none. The page names the tasks to come, about how much memory each needs, and how many questions it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from lorapar.config import RunConfig
from lorapar.config.idle import without_effect
from lorapar.kubeflow.checks import check_nodes, check_webhook
from lorapar.kubeflow.executor_io import ExecutorInput
from lorapar.kubeflow.ledger import TaskSettings
from lorapar.kubeflow.parameters import gpu_pool_of, parallelism_of, run_config
from lorapar.kubeflow.summary import plain
from lorapar.kubeflow.tasks import LOOPED_NODE, TASKS, Takes, node_named, read_takes, task_named, task_of
from lorapar.local.calls import filter_calls, pick_calls, rollouts_text, teacher_calls
from lorapar.local.estimate import StageMemory, stage_memory
from lorapar.local.foretold import memory_lines, reported_starts
from lorapar.report.formats import count_of
from lorapar.stages.graph import GRAPH, Node
from lorapar.stages.plan import stage_settings
from lorapar.stages.plan_file import Plan
from lorapar.training.shares import SHARED_STAGES, nodes_text, processes_text
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


Lanes = Mapping[str, Sequence[Lane]]
Memory = Callable[[Takes], Mapping[str, StageMemory]]
"""What each stage needs, by what its task takes."""


def plan_page(
    config: RunConfig, lanes: Lanes, accelerators: Mapping[str, Takes], number_format: str | None = None
) -> str:
    """The page, as Markdown. `lanes` are the tasks of each round of votes, `accelerators` what other tasks take,
    `number_format` the format that `auto` chose.

    Raises BadInputError for a broken row.
    """
    memory = cache(lambda takes: _memory(config, takes))
    rows = [
        _row(node, config, lanes.get(node.name, ()), memory, accelerators) for node in GRAPH if node.stage != "plan"
    ]
    table = "\n".join(["| stage | image | memory, about | accelerators | |", "|---|---|---|---|---|", *rows])
    about = "A task whose settings, inputs and image are those of an earlier run is taken from Kubeflow's cache."
    terms = _terms(config, memory, accelerators)
    return f"# What will run: `{config.name}`\n\n{_facts(config, number_format)}\n\n{table}\n\n{terms}{about}\n"


_HOLDERS = {"score": "score-system1", "sft": "sft", "rl": "rl"}
"""The task whose accelerators a stage's terms are of."""


def _terms(config: RunConfig, memory: Memory, accelerators: Mapping[str, Takes]) -> str:
    """The memory of the stages that take most, in GB by its terms, with the card that would hold it."""
    held, on_card = {}, {}
    for stage, task in _HOLDERS.items():
        takes = accelerators.get(task, Takes())
        if stage in (found := memory(takes)):
            held[stage], on_card[stage] = found[stage], stage_memory(config, "cuda", _gpus(takes))[stage]
    lines = [f"- **memory of {stage}, GB**: {line}" for stage, line in memory_lines(config, held, on_card).items()]
    return "\n".join([*lines, "", ""]) if lines else ""


def _facts(config: RunConfig, number_format: str | None) -> str:
    revision = f" at {plain(config.model.revision)}" if config.model.revision else ""
    asked = [*filter_calls(config), *pick_calls(config)]
    facts = {
        "model": f"{plain(config.model.name)}{revision} ({config.model.dtype})",
        **({} if number_format is None else {"number format": number_format}),
        "data": f"{plain(config.data.named)} ({str(config.data.digest)[:12]})",
        "teachers": teacher_calls(config),
        **({"adapters": "; ".join(plain(one) for one in asked)} if asked else {}),
        **({"completions": "; ".join(plain(one) for one in sampled)} if (sampled := rollouts_text(config)) else {}),
        **({"settings": "; ".join(plain(one) for one in idle)} if (idle := without_effect(config)) else {}),
        **({"start": "; ".join(starts)} if (starts := reported_starts(config)) else {}),
        "registry": plain(config.registry.address or "registry below the store"),
        "promotion": "where the gate finds it better" if config.gate.promote else "off",
    }
    return "\n".join(f"- **{name}**: {text}" for name, text in facts.items())


def _row(
    node: Node,
    config: RunConfig,
    lanes: Sequence[Lane],
    memory: Memory,
    accelerators: Mapping[str, Takes],
) -> str:
    takes = (
        Takes(count=sum(int(lane.accelerators) for lane in lanes)) if lanes else accelerators.get(node.name, Takes())
    )
    text = (str(takes.count or "none")) if lanes else takes.text()
    need = memory(takes).get(node.stage)
    size = f"{need.total_bytes / 1e9:.1f} GB" if need else ""
    how = "; ".join(filter(None, [_how(node, lanes), *_processes(node, config, takes)]))
    return f"| {node.name} | {task_of(node.name).image} | {size} | {text} | {how} |"


def _memory(config: RunConfig, takes: Takes) -> dict[str, StageMemory]:
    """What a process of each stage needs with its task's accelerators: on several GPUs its part of a sharded base."""
    return stage_memory(config, "cuda" if takes.count else "cpu", _gpus(takes))


def _gpus(takes: Takes) -> int:
    return takes.nodes * takes.processes if takes.nodes > 1 else takes.count


def _processes(node: Node, config: RunConfig, takes: Takes) -> list[str]:
    """In how many processes a node runs on its accelerators."""
    if takes.nodes > 1:
        return [f"by a TrainJob: {line}" for line in nodes_text(config, node.stage, takes.nodes, takes.processes)]
    if node.stage not in SHARED_STAGES or not takes.count:
        return []
    return [f"processes: {line}" for line in processes_text(config, node.stage, takes.count)]


def _how(node: Node, lanes: Sequence[Lane]) -> str:
    """A remark about how a node runs."""
    task = task_of(node.name)
    if node.when is not None:
        return f"only where the gate finds it better, in the task {task.name}"
    if node.stage == "report":
        return "last, whatever happened"
    if lanes:
        return count_of(len(lanes), "task")
    return "" if task.name == node.name else f"in the task {task.name}"
