"""The page of `plan` in Kubeflow: the tasks to come, about how much memory each needs, how many questions it asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from lorapar.config import RunConfig
from lorapar.config.idle import without_effect
from lorapar.kubeflow.planned import Lane
from lorapar.kubeflow.summary import plain
from lorapar.kubeflow.takes import Takes
from lorapar.kubeflow.tasks import task_of
from lorapar.local.calls import filter_calls, pick_calls, rollouts_text, teacher_calls
from lorapar.local.estimate import stage_memory_bytes
from lorapar.report.formats import count_of
from lorapar.stages.graph import GRAPH, Node
from lorapar.training.shares import SHARED_STAGES, nodes_text, processes_text

Lanes = Mapping[str, Sequence[Lane]]


def plan_page(
    config: RunConfig, lanes: Lanes, accelerators: Mapping[str, Takes], number_format: str | None = None
) -> str:
    """The page, as Markdown. `lanes` are the tasks of each round of votes, `accelerators` what other tasks take,
    `number_format` the format that `auto` chose.

    Raises BadInputError for a broken row.
    """
    memory = cache(lambda takes: _memory_bytes(config, takes))
    rows = [
        _row(node, config, lanes.get(node.name, ()), memory, accelerators) for node in GRAPH if node.stage != "plan"
    ]
    table = "\n".join(["| stage | image | memory, about | accelerators | |", "|---|---|---|---|---|", *rows])
    about = "A task whose settings, inputs and image are those of an earlier run is taken from Kubeflow's cache."
    return f"# What will run: `{config.name}`\n\n{_facts(config, number_format)}\n\n{table}\n\n{about}\n"


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
        "registry": plain(config.registry.address or "registry below the store"),
        "promotion": "where the gate finds it better" if config.gate.promote else "off",
    }
    return "\n".join(f"- **{name}**: {text}" for name, text in facts.items())


def _row(
    node: Node,
    config: RunConfig,
    lanes: Sequence[Lane],
    memory: Callable[[Takes], Mapping[str, int]],
    accelerators: Mapping[str, Takes],
) -> str:
    takes = (
        Takes(count=sum(int(lane.accelerators) for lane in lanes)) if lanes else accelerators.get(node.name, Takes())
    )
    text = (str(takes.count or "none")) if lanes else takes.text()
    need = memory(takes).get(node.stage)
    size = f"{need / 1e9:.1f} GB" if need else ""
    how = "; ".join(filter(None, [_how(node, lanes), *_processes(node, config, takes)]))
    return f"| {node.name} | {task_of(node.name).image} | {size} | {text} | {how} |"


def _memory_bytes(config: RunConfig, takes: Takes) -> dict[str, int]:
    """What a process of each stage needs with its task's accelerators: on several GPUs its part of a sharded base."""
    gpus = takes.nodes * takes.processes if takes.nodes > 1 else takes.count
    return stage_memory_bytes(config, "cuda" if takes.count else "cpu", gpus)


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
