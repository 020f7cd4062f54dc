"""Follow a run to its end: a table of stages that moves at a terminal, a line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorapar.errors import UnreachableError
from lorapar.stages.graph import node_names

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
"""A server that does not answer for so long while a run is followed is given up; the run itself goes on."""
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "RUNNING": "yellow", "CANCELED": "red", "CACHED": "green"}


@dataclass(frozen=True)
class TaskState:
    """One task as the server tells of it."""

    name: str
    state: str
    seconds: float | None


def follow(get_run: Callable[[str], Any], run: str, console: Console, *, poll_seconds: float = POLL_SECONDS) -> Any:
    """The run once it has ended. Short silences of the server are waited out; raises UnreachableError for long ones."""
    heard = time.monotonic()
    shown: dict[str, str] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                found = get_run(run)
                heard = time.monotonic()
            except UnreachableError:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise
                time.sleep(poll_seconds)
                continue
            tasks = task_states(found)
            if console.is_terminal:
                live.update(stage_table(tasks), refresh=True)
            else:
                _say_changes(console, tasks, shown)
            if found.state in ENDED:
                return found
            time.sleep(poll_seconds)


def task_states(run: Any) -> list[TaskState]:
    """The stages of a run in their order; drivers and groups of Kubeflow's own are left out.

    A loop's tasks have one name: the least finished of them speaks for all.
    """
    details = (run.run_details.task_details if run.run_details is not None else None) or []
    order = {name: place for place, name in enumerate(node_names())}
    found: dict[str, TaskState] = {}
    for task in details:
        name = str(task.display_name or "")
        if name in order:
            state = TaskState(name, str(task.state or "PENDING"), _seconds(task))
            before = found.get(name)
            if before is None or before.state in ("SUCCEEDED", "CACHED", "SKIPPED"):
                found[name] = state
    return sorted(found.values(), key=lambda task: order[task.name])


def stage_table(tasks: Iterable[TaskState]) -> Table:
    """A row a stage: its state and how long it has taken."""
    table = Table("stage", "", "time", box=None, header_style="bold")
    for task in tasks:
        seconds = f"{task.seconds:.0f} s" if task.seconds is not None else ""
        table.add_row(task.name, Text(task.state.lower(), style=_COLOURS.get(task.state, "")), seconds)
    return table


def _say_changes(console: Console, tasks: Iterable[TaskState], shown: dict[str, str]) -> None:
    for task in tasks:
        if shown.get(task.name) != task.state:
            shown[task.name] = task.state
            seconds = f" after {task.seconds:.0f} s" if task.seconds is not None and task.state in ENDED else ""
            console.print(f"{task.name}: {task.state.lower()}{seconds}", markup=False, highlight=False)


def _seconds(task: Any) -> float | None:
    if task.start_time is None:
        return None
    end = task.end_time
    # An unset time arrives as the epoch.
    if end is None or end.year < 2000:
        end = datetime.now(UTC)
    return float(max(0.0, (end - task.start_time).total_seconds()))
