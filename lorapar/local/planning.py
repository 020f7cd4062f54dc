"""`lorapar plan`: what a run would do, as a table, before anything starts."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lorapar.config import RunConfig
from lorapar.local.estimate import stage_memory_bytes
from lorapar.local.folder import RunFolder
from lorapar.local.preview import PlannedNode, preview
from lorapar.local.runner import last_node
from lorapar.stages.plan import make_plan
from lorapar.voting import quorum_size


def plan_table(config: RunConfig, out: Path, *, until: str | None, fresh: bool) -> Group:
    """A row a node: runs or reused, why, and about how much memory; below it model, data and teacher calls."""
    last = last_node(until)
    plan = make_plan(config)
    memory = stage_memory_bytes(plan.config)
    table = Table("node", "", "why", "memory, about", box=None, header_style="bold")
    for planned in _up_to(preview(plan, RunFolder(out)), last):
        reused = planned.reused and not fresh
        why = "--fresh" if planned.reused and fresh else planned.reason
        need = memory.get(planned.node.stage)
        table.add_row(planned.node.name, _state(reused), why, f"{need / 1e9:.1f} GB" if need else "")
    return Group(table, Text(), *_facts(plan.config, out))


def _up_to(planned: list[PlannedNode], last: str) -> list[PlannedNode]:
    names = [entry.node.name for entry in planned]
    return planned[: names.index(last) + 1]


def _state(reused: bool) -> Text:
    return Text("reuse", style="green") if reused else Text("run", style="yellow")


def _revision(config: RunConfig) -> str:
    return f" at {config.model.revision}" if config.model.revision else ""


def _facts(config: RunConfig, out: Path) -> list[Text]:
    first = quorum_size(len(config.teachers), config.voting.quorum)
    rest = len(config.teachers) - first
    calls = f"{first} teachers read every row" + (f", {rest} more only undecided rows" if rest else "")
    return [
        Text(f"run folder  {out}"),
        Text(f"model       {config.model.name}{_revision(config)} ({config.model.dtype})"),
        Text(f"data        {config.data.source} ({str(config.data.digest)[:12]})"),
        Text(f"teachers    {calls}"),
    ]
