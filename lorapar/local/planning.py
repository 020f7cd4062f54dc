"""`lorapar plan`: what a run would do, as a table, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lorapar.config import RunConfig
from lorapar.config.idle import without_effect
from lorapar.config.training import PhaseConfig, phase_text
from lorapar.local.calls import filter_calls, judge_calls, pick_calls, rollouts_text, teacher_calls
from lorapar.local.edits import with_edits
from lorapar.local.estimate import StageMemory, stage_memory
from lorapar.local.expectation import expectations, hours_text
from lorapar.local.folder import RunFolder
from lorapar.local.forecast import planned_omissions
from lorapar.local.foretold import memory_lines, reported_starts
from lorapar.local.needs import (
    adapter_targets,
    ask_storage,
    check_context,
    check_keys_of_servers,
    own_answers,
    require_packages,
    require_sandbox,
)
from lorapar.local.pinned import pinned_text, with_pinned
from lorapar.local.preview import PlannedNode, preview
from lorapar.local.runner import last_node, with_registry
from lorapar.local.timing import Expected
from lorapar.registry import VLLM_RANKS, max_lora_rank, start
from lorapar.report.formats import duration
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import Node
from lorapar.stages.model_text import Look, look
from lorapar.stages.plan import make_plan
from lorapar.stages.plan_file import Plan
from lorapar.store import is_s3
from lorapar.store.file_system import lacking
from lorapar.training.shares import SHARED_STAGES, processes_text, visible_gpus

if TYPE_CHECKING:
    from lorapar.adapter import Targets


@dataclass(frozen=True)
class RunPlan:
    """What a run would do."""

    out: Path
    """The run folder."""
    config: RunConfig
    """The settings with model and data resolved."""
    nodes: list[NodePlan]
    lines: list[Text]
    """Model, data, teacher calls and what there is to note, for people."""


@dataclass(frozen=True)
class NodePlan:
    """What a run would do with one node."""

    node: Node
    reused: bool
    why: str
    memory_bytes: int | None
    """Estimated peak; None where none is estimated."""
    expected: Expected | None = None
    """How long it will take, by runs of the same shape; None where none is recorded."""


def plan_table(planned: RunPlan) -> Group:
    """A row a node: runs or reused, why, about how much memory and, where runs like it are recorded, time.

    Below it model, data and teacher calls.
    """
    timed = ["time, about"] if any(one.expected for one in planned.nodes) else []
    table = Table("node", "", "why", "memory, about", *timed, box=None, header_style="bold")
    for one in planned.nodes:
        need, time = one.memory_bytes, duration(one.expected.seconds) if one.expected else ""
        size = f"{need / 1e9:.1f} GB" if need else ""
        table.add_row(one.node.name, _state(one.reused), one.why, size, *([time] if timed else []))
    return Group(table, Text(), *planned.lines)


def plan_run(config: RunConfig, out: Path, *, until: str | None, fresh: bool) -> RunPlan:
    """Look at settings, folder, model and rows; starts nothing.

    Raises the error that a run with these settings would end with in its first seconds.
    """
    last, folder = last_node(until), RunFolder(out)
    folder.require_own()
    ask_storage(config)
    config = with_edits(with_registry(config, out), folder)
    pinned = None if fresh else pinned_text(config, folder)
    plan = make_plan(config if fresh else with_pinned(config, folder))
    nodes = _up_to(preview(plan, folder), last)
    running = [planned.node for planned in nodes if fresh or not planned.reused]
    if any(is_cached(node.stage) for node in running):
        require_packages(running, plan.config)
        require_sandbox(running, plan.config)
        check_keys_of_servers(running, plan.config)
        check_context(plan.config)
    targets = adapter_targets(running, plan.config)
    hours, unasked = expectations(plan, running)
    memory, on_card = stage_memory(plan.config), stage_memory(plan.config, "cuda")
    entries = [
        NodePlan(
            one.node,
            one.reused and not fresh,
            "--fresh" if one.reused and fresh else one.reason,
            memory[one.node.stage].total_bytes if one.node.stage in memory else None,
            hours.get(one.node.name),
        )
        for one in nodes
    ]
    omitted = [*map(Text, planned_omissions(plan.config, [node.stage for node in running]))]
    if (failing := own_answers(running, plan.config)) is not None:
        omitted.append(Text(f"tests       {failing}", style="yellow"))
    if pinned is not None:
        omitted.append(Text(f"note        {pinned}"))
    seen = look(plan.config)
    stages = {node.stage for node in running}
    where = (*_adapter(plan.config, targets), *_phases(plan.config), *_processes(plan.config, stages))
    lines = [*hours_text(hours, running), *([unasked] if unasked else [])]
    times = [Text(f"{'time' if place == 0 else '':<12}{line}") for place, line in enumerate(lines)]
    facts = (
        *_facts(plan, out, seen),
        *where,
        *_memory(plan.config, *(_of_stages(one, {node.node.stage for node in nodes}) for one in (memory, on_card))),
        *times,
        *_text_facts(seen),
        *omitted,
    )
    return RunPlan(out, plan.config, entries, list(facts))


def _phases(config: RunConfig) -> list[Text]:
    """Phases with settings of their own, and settings that do nothing, a line each."""
    own = [phase for phase in config.phases if isinstance(phase, PhaseConfig) and phase.settings]
    lines = [Text(f"{'phases' if place == 0 else '':<12}{phase_text(phase)}") for place, phase in enumerate(own)]
    return [*lines, *(Text(f"settings    {note}", style="yellow") for note in without_effect(config))]


def _up_to(planned: list[PlannedNode], last: str) -> list[PlannedNode]:
    names = [entry.node.name for entry in planned]
    return planned[: names.index(last) + 1]


def _state(reused: bool) -> Text:
    return Text("reuse", style="green") if reused else Text("run", style="yellow")


def _held(config: RunConfig) -> str:
    return ", ".join(filter(None, (config.model.dtype, config.model.quantization_text)))


def _revision(config: RunConfig) -> str:
    return f" at {config.model.revision}" if config.model.revision else ""


def _text_facts(seen: Look) -> list[Text]:
    """What ends an answer, and what the chat template does to the first rows."""
    check = seen.check
    return [] if check is None else [Text(f"answers     {check.ends}"), *map(Text, check.notes())]


def _adapter(config: RunConfig, targets: Targets | None) -> list[Text]:
    """Where the adapter will sit; what the layout leaves out or takes beside what it names, a line each."""
    if config.model.continue_:
        return [Text(line) for line in _start(config)]
    if config.adapter.kind in ("prompt", "prefix"):
        tokens = config.adapter.virtual_tokens
        return [
            Text(f"adapter     {config.adapter.kind} tuning, {tokens} virtual tokens"),
            _undivided(config.adapter.kind),
        ]
    if targets is None:
        return [Text(line) for line in [*_reported(config), *_start(config)]]
    layout, kind = config.adapter.layout, config.adapter.kind
    if kind == "ia3":
        return [Text(f"adapter     ia3: {', '.join(targets.modules)}"), _undivided(kind)]
    named = f"{layout}: " if isinstance(layout, str) else ""
    lines = [f"adapter     {named}{', '.join(targets.modules)}", *(f"            {note}" for note in targets.notes)]
    if kind == "dora":
        return [*map(Text, lines), _undivided(kind)]
    return [Text(line) for line in [*lines, *_reported(config), *_start(config)]]


def _undivided(kind: str) -> Text:
    return Text(f"            {kind} is trained as a whole, without scores; PEFT loads it, vLLM does not serve it")


def _reported(config: RunConfig) -> list[str]:
    return [f"start       {line}" for line in reported_starts(config)]


def _of_stages(memory: Mapping[str, StageMemory], stages: set[str]) -> dict[str, StageMemory]:
    """That of stages which are in the plan."""
    return {stage: need for stage, need in memory.items() if stage in stages}


def _memory(config: RunConfig, memory: Mapping[str, StageMemory], on_card: Mapping[str, StageMemory]) -> list[Text]:
    """The terms of the stages that take most on what is here, and the card that would hold them."""
    lines = memory_lines(config, memory, on_card)
    return [
        Text(f"{'memory, GB' if place == 0 else '':<12}{stage}: {line}")
        for place, (stage, line) in enumerate(lines.items())
    ]


def _processes(config: RunConfig, stages: set[str]) -> list[Text]:
    """In how many processes stages are done here, where that is not one, or not all that there could be."""
    shared = [one for one in SHARED_STAGES if one in stages and (one in config.methods or one not in ("sft", "rl"))]
    shared_lines = {stage: processes_text(config, stage, visible_gpus()) for stage in shared}
    return [Text(f"processes   {stage}: {line}") for stage, lines in shared_lines.items() for line in lines]


def _start(config: RunConfig) -> list[str]:
    """What the adapter goes on from, and the rank that comes of it."""
    model, rank = config.model, config.held_rank
    served = max_lora_rank(rank)
    if model.adapter is None or model.adapter_source is None:
        beyond = f"            its rank in PEFT's files is {rank}, and vLLM serves no rank above {VLLM_RANKS[-1]}"
        return [] if served else [beyond]
    note = start.unknown_base(model, start.read_start(model))
    notes = [] if note is None else [f"            {note}"]
    vllm = f"vLLM needs --max-lora-rank {served}" if served else f"vLLM serves no rank above {VLLM_RANKS[-1]}"
    if model.continue_:
        return [
            f"goes on     with {model.adapter_text} itself: no new elements; its rank ({rank}), alpha and modules "
            f"stay, whatever adapter.rank, alpha, layout and init say; {vllm}",
            *notes,
        ]
    new, old = rank - (model.adapter_source.rank or 0), model.adapter_source.rank
    return [f"goes on     from {model.adapter_text}, held frozen: rank {new} + {old} = {rank}; {vllm}", *notes]


def _facts(plan: Plan, out: Path, seen: Look) -> list[Text]:
    config = plan.config
    calls = teacher_calls(config)
    return [
        Text(f"run folder  {out}"),
        Text(f"model       {config.model.name}{_revision(config)} ({_held(config)})"),
        *([] if plan.number_format is None else [Text(f"format      {plan.number_format}")]),
        Text(f"data        {config.data.named} ({str(config.data.digest)[:12]})"),
        *(Text(f"            {note}") for note in seen.notes),
        Text(f"teachers    {calls}"),
        *(Text(f"judge       {line}") for line in judge_calls(config)),
        *(Text(f"asks        {line}") for line in (*filter_calls(config), *pick_calls(config))),
        *(Text(f"samples     {line}") for line in rollouts_text(config)),
        *(Text(f"benchmark   {note}") for note in plan.benchmark_notes),
        *_lacking(config, out),
    ]


def _lacking(config: RunConfig, out: Path) -> list[Text]:
    """What the file systems of the run's folders lack; a run goes on without it."""
    folders = [out, *(Path(one) for one in (config.store.address, config.registry.address) if one and not is_s3(one))]
    found: dict[str, Path] = {}
    for folder in folders:
        for what in lacking(folder):
            found.setdefault(what, folder)
    return [
        Text(f"note        {folder}: its file system lacks {what}", style="yellow") for what, folder in found.items()
    ]
