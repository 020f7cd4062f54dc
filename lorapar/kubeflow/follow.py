"""Follow a run to its end: a live table of the graph's nodes in a terminal, one line for each change elsewhere.

States come from the task details of Kubeflow's API. Where those stand still although the run goes on, the Workflow
itself (lorapar/kubeflow/workflow.py) and the records in the run's store say more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.kubeflow.package import PlannedTask
from lorapar.kubeflow.workflow import Pod, Workflow, read_workflow
from lorapar.stages.graph import GRAPH, node_names

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
"""After this time without an answer, following ends; the run itself goes on."""
SILENT_SECONDS = 30.0
"""How often a line meanwhile says that the server does not answer."""
IDLE_SECONDS = 3600.0
"""After this time without a pod, between two pods or before the first, a Workflow counts as deleted.

Kubeflow 2.17.0 does not report a deletion (backend/src/agent/persistence/worker/workflow_saver.go, Save: a Workflow
that is not found is no longer reported), and an existing Workflow gets its next pod within seconds."""
QUIET_SECONDS = 120.0
"""How often to look up what the task details do not show, and after how long a pod should have started."""
FROZEN_SECONDS = 30.0
"""The same once the task details are known to stand still."""
UNSPECIFIED = "RUNTIME_STATE_UNSPECIFIED"
GOING = ("PENDING", "RUNNING", "CANCELING", "PAUSED", UNSPECIFIED, "")
"""States of a run that has not ended."""
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
CANCELLED = ("CANCELING", "CANCELED")
_OPEN = ("RUNNING", "PENDING")
_UNENDED = (*_OPEN, "CANCELING", "PAUSED")
"""States of a task that say nothing about its end once its run has ended."""
_DONE = ("SUCCEEDED", "CACHED", "SKIPPED")
_COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "RUNNING": "yellow", "CANCELLED": "red", "CACHED": "green"}
_COLOURS |= {"GONE": "red", "STOPPED": "red", "CANCELED": "red"}

_WHY_TASK = (
    "no node with room or with that accelerator, a queue that does not admit it, an image that cannot be pulled, or a "
    "volume or Secret that is missing"
)
_WHY_DRIVER = "no node with room, a quota that is used up, or Kubeflow's own image, which cannot be pulled"


class NotInKubeflowError(BadInputError):
    """Kubeflow does not have what was asked for, or no longer."""


@dataclass(frozen=True)
class TaskState:
    """One node of the graph; its state is empty where no source knows it."""

    name: str
    state: str
    seconds: float | None = None


class Logs(Protocol):
    """Something that returns the logs of a run."""

    def log(self, run: str, pod: str) -> str:
        """The end of a pod's log; raises UnreachableError where there is none."""


class Sources(Logs, Protocol):
    """Where the state of a followed run comes from."""

    def run(self, run: str) -> Any:
        """The run with its task details."""

    def manifest(self, run: str) -> str | None:
        """Argo's Workflow as JSON, where it can be had."""


@dataclass
class Followed:
    """A run that is followed, and what is known about it so far."""

    server: Sources
    run: str
    tasks: Sequence[PlannedTask]
    records: Callable[[], Mapping[str, str]]
    """States of nodes from their records in the store; empty where it cannot be read."""
    found: Any = None
    workflow: Workflow | None = None
    cancelled: bool = False
    """Whether somebody terminated it."""
    gone: bool = False
    """Whether its pods no longer exist although nothing ended it."""
    deleted: bool = False
    """Whether somebody deleted the run itself, so that Kubeflow no longer knows it."""
    frozen: bool = False
    _notes: set[str] = field(default_factory=set)
    _signature: Any = None
    _changed: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)
    _missed: int = 0
    _denied: int = 0

    @property
    def ended(self) -> bool:
        """Whether the run will not change any more."""
        return self.gone or self.deleted or str(self.found.state) in ENDED

    def ask(self) -> None:
        """Ask Kubeflow for the run. Two answers of 404 mean deleted: a gateway that is starting also answers 404."""
        try:
            self.found, self._denied = self.server.run(self.run), 0
        except NotInKubeflowError as error:
            self._denied += 1
            self.deleted = self.found is not None and self._denied > 1
            if self.deleted:
                return
            raise UnreachableError(str(error)) from None
        self.cancelled = self.cancelled or was_cancelled(self.found)
        details = _details(self.found)
        signature = sorted((str(task.display_name), str(task.state)) for task in details)
        if signature != self._signature:
            self._signature, self._changed = signature, time.monotonic()

    def look_deeper(self) -> list[str]:
        """Lines about what the task details do not show, each once."""
        patience = FROZEN_SECONDS if self.frozen else QUIET_SECONDS
        if self.ended or time.monotonic() - self._looked < patience:
            return []
        self._looked = time.monotonic()
        self.read_workflow()
        notes = [*self._freeze(), *self._waiting(), *self._gone()]
        new = [line for line in notes if line not in self._notes]
        self._notes.update(new)
        return new

    def read_workflow(self) -> None:
        """Ask for the Workflow itself."""
        text = self.server.manifest(self.run)
        self.workflow = read_workflow(text, self.tasks) if text else None
        self.cancelled = self.cancelled or (self.workflow is not None and self.workflow.cancelled)

    def states(self) -> list[TaskState]:
        """Every node of the graph once, in order, with the most that any source knows about it."""
        shown = task_states(self.found, self.tasks)
        if not (self.frozen or self.ended):
            return shown
        return merged_states(shown, self.workflow, self.records(), self.tasks)

    def _freeze(self) -> list[str]:
        """Note whether the details stand still: Argo has packed the node statuses, or the store knows more."""
        if self.frozen:
            return []
        shown = {task.name: task.state for task in task_states(self.found, self.tasks)}
        ahead = [name for name, state in self.records().items() if state == "SUCCEEDED" and shown[name] not in _DONE]
        packed = self.workflow is not None and self.workflow.compressed
        self.frozen = packed or bool(ahead)
        if not self.frozen:
            return []
        why = (
            "Argo has packed this run's node statuses, of which Kubeflow makes no task details"
            if packed
            else "the store has results of tasks that it shows as unfinished"
        )
        return [f"Kubeflow's task states have stopped changing ({why}); the rest is followed by other means"]

    def _waiting(self) -> list[str]:
        """Lines about tasks whose pods have not started; Kubeflow's API does not say why."""
        if self.workflow is None and time.monotonic() - self._changed < QUIET_SECONDS:
            return []
        if self.workflow is None:
            waiting = {task.name for task in task_states(self.found, self.tasks) if task.state in _OPEN}
            names = [task.name for task in self.tasks if waiting & set(task.nodes)]
            return [
                f"nothing has changed for {QUIET_SECONDS / 60:.0f} min: {_asks(self.tasks, name)}is not done yet; if "
                f"its pod is Pending, `kubectl describe pod -l pipeline/runid={self.run}` says why"
                for name in names
            ]
        late = [
            *(
                (pod, _asks(self.tasks, pod.nodes[0]), _WHY_TASK)
                for pod in self.workflow.pods()
                if pod.state == "PENDING"
            ),
            *((pod, f"{self.driven(pod)} ", _WHY_DRIVER) for pod in self.workflow.drivers() if pod.state == "PENDING"),
        ]
        space = self.workflow.namespace
        if not self.workflow.has_begun:
            return self._not_begun()
        return [_pending(pod, who, why, space) for pod, who, why in late if pod.seconds >= QUIET_SECONDS]

    def _not_begun(self) -> list[str]:
        """A line about a Workflow for which Argo has made no pod yet."""
        if self.workflow is None or time.monotonic() - self._changed < QUIET_SECONDS:
            return []
        why = self.workflow.message or (
            "Argo's controller does not run or is busy, a quota on workflows or a lock, or somebody has deleted it"
        )
        where = f"-n {self.workflow.namespace} " if self.workflow.namespace else ""
        look = f"look at `kubectl {where}describe workflow {self.workflow.name}`"
        return [f"the run has no pod yet after {QUIET_SECONDS / 60:.0f} min; {look}: {why}"]

    def driven(self, pod: Pod) -> str:
        """What a driver belongs to; a driver takes no accelerator, whatever its task asks for."""
        task = next((task for task in self.tasks if pod.nodes and pod.nodes[0] in task.nodes), None)
        return f"Kubeflow's driver of {task.name if task is not None else 'a group of tasks'}"

    def _gone(self) -> list[str]:
        """Note a deleted Workflow, which leaves its run `running` for ever: its pods are missing twice in a row."""
        there = self.workflow is None or not is_gone(self.server, self.run, self.workflow)
        self._missed = 0 if there else self._missed + 1
        self.gone = self._missed > 1
        return []


def follow(followed: Followed, console: Console, *, poll_seconds: float | None = None) -> None:
    """Watch until the run has ended or is gone. Raises UnreachableError where the server does not answer for long."""
    pause = POLL_SECONDS if poll_seconds is None else poll_seconds
    heard = printed = time.monotonic()
    shown: dict[str, str] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                followed.ask()
                heard = printed = time.monotonic()
                for note in followed.look_deeper():
                    console.print(note, markup=False, highlight=False, soft_wrap=True)
            except UnreachableError as error:
                now = time.monotonic()
                if now - heard > PATIENCE_SECONDS:
                    raise
                if now - printed >= SILENT_SECONDS:
                    printed = now
                    console.print(_silence(error, now - heard), markup=False, highlight=False, soft_wrap=True)
                time.sleep(pause)
                continue
            if followed.ended and not followed.deleted:
                followed.read_workflow()
            tasks = followed.states()
            if console.is_terminal:
                live.update(stage_table(tasks), refresh=True)
            else:
                _print_changes(console, tasks, shown)
            if followed.ended:
                return
            time.sleep(pause)


def _silence(error: Exception, seconds: float) -> str:
    minutes = PATIENCE_SECONDS / 60
    return f"{error}; no answer for {seconds:.0f} s; asking again, for up to {minutes:.0f} min"


def was_cancelled(run: Any) -> bool:
    """Whether somebody terminated the run. Its last state is FAILED; only its history shows the difference.

    Kubeflow 2.17.0, backend/src/apiserver/resource/resource_manager.go, TerminateRun and ReportWorkflowResource.
    """
    history = [str(status.state) for status in getattr(run, "state_history", None) or []]
    return any(state in CANCELLED for state in (str(run.state), *history))


def is_gone(server: Logs, run: str, workflow: Workflow) -> bool:
    """Whether none of the pods that run according to the Workflow exists, or no pod has come for long.

    Kubeflow's database does not learn of a deleted Workflow: the run keeps its state for ever.
    """
    pods = workflow.pods_at_work()
    if not pods:
        idle = workflow.idle_seconds()
        return idle is not None and idle > IDLE_SECONDS
    return not any(_is_there(server, run, pod) for pod in pods)


def _is_there(server: Logs, run: str, pod: str) -> bool:
    """Whether a pod still exists. Only Kubeflow's answer that there is no such pod counts as a no.

    A gateway that does not know the path says nothing about the pod.
    """
    try:
        server.log(run, pod)
    except LoraparError as error:
        return f'pods "{pod}" not found' not in str(error)
    return True


def task_states(run: Any, tasks: Sequence[PlannedTask]) -> list[TaskState]:
    """Every node of the graph in order, with what the task details say about it.

    Details have the names of Argo's tasks (2.17.0, backend/src/apiserver/server/api_converter.go, toModelTask), which
    the package distinguishes. Of several with one name, the least finished decides.
    """
    nodes = {task.key: task.nodes for task in tasks}
    found: dict[str, TaskState] = {}
    for detail in _details(run):
        for name in nodes.get(str(detail.display_name or ""), ()):
            before = found.get(name)
            if before is None or before.state in (*_DONE, ""):
                found[name] = TaskState(name, _state(detail), _seconds(detail))
    return _with_conditions([found.get(name, TaskState(name, "")) for name in node_names()], tasks)


def _state(detail: Any) -> str:
    """The state of a task; empty where Kubeflow has no name for Argo's state, as for a task omitted after a failure."""
    state = str(detail.state or "PENDING")
    return "" if state == UNSPECIFIED else state


def merged_states(
    shown: Sequence[TaskState], workflow: Workflow | None, records: Mapping[str, str], tasks: Sequence[PlannedTask]
) -> list[TaskState]:
    """Merge what the sources say: the Workflow overrules the details, and what is in the store is done."""
    deeper = workflow.states() if workflow is not None else {}
    found = [
        TaskState(task.name, deeper[task.name].state, deeper[task.name].seconds) if task.name in deeper else task
        for task in shown
    ]
    return [
        replace(task, state=records[task.name]) if task.name in records and task.state not in _DONE else task
        for task in _with_conditions(found, tasks)
    ]


def last_states(followed: Followed, states: Iterable[TaskState], promote: str) -> list[TaskState]:
    """The states of an ended run, whose tasks no longer go on, whatever their last reported state.

    `promote` is what the run's outcome says about that node, which shares its task with another one.
    """
    if followed.cancelled:
        word = "CANCELLED"
    elif followed.gone or followed.deleted:
        word = "GONE"
    else:
        word = "" if str(followed.found.state) == "SUCCEEDED" else "STOPPED"
    known = [replace(one, state=promote) if one.name == "promote" and promote else one for one in states]
    return [replace(one, state=word, seconds=None) if one.state in _UNENDED else one for one in known]


def word_for(state: str) -> str:
    """The state of a task or run in plain words."""
    return state.lower().replace("canceling", "cancelling").replace("canceled", "cancelled")


def stage_table(tasks: Iterable[TaskState]) -> Table:
    """A table with one row for each node: its state and how long it has taken."""
    table = Table("stage", "", "time", box=None, header_style="bold")
    for task in tasks:
        seconds = f"{task.seconds:.0f} s" if task.seconds is not None else ""
        table.add_row(task.name, Text(word_for(task.state) or "-", style=_COLOURS.get(task.state, "")), seconds)
    return table


def _with_conditions(states: Sequence[TaskState], tasks: Sequence[PlannedTask]) -> list[TaskState]:
    """Mark a node with a condition that shares its task: a finished task does not mean that this node ran."""
    shared = {name for task in tasks if len(task.nodes) > 1 for name in task.nodes}
    conditional = {node.name for node in GRAPH if node.when is not None} & shared
    return [
        TaskState(state.name, "") if state.name in conditional and state.state in _DONE else state for state in states
    ]


def _details(run: Any) -> list[Any]:
    return list((run.run_details.task_details if run.run_details is not None else None) or [])


def _asks(tasks: Sequence[PlannedTask], node: str) -> str:
    """The task that runs a node, with what it asks for: `sft (asks for 1 nvidia.com/gpu) `."""
    task = next((task for task in tasks if node in task.nodes), None)
    if task is None:
        return f"{node} "
    asked = task.accelerators.replace("? ", "")
    return f"{task.name} (asks for {asked}) " if asked else f"{task.name} "


def _pending(pod: Pod, who: str, why: str, namespace: str) -> str:
    cause = f": {pod.message}" if pod.message else "; Kubeflow does not say why"
    where = f"-n {namespace} " if namespace else ""
    return (
        f"{who}has not started after {QUIET_SECONDS / 60:.0f} min{cause}; look at "
        f"`kubectl {where}describe pod {pod.name}`: {why}"
    )


def _print_changes(console: Console, tasks: Iterable[TaskState], shown: dict[str, str]) -> None:
    for task in tasks:
        if task.state and shown.get(task.name) != task.state:
            shown[task.name] = task.state
            seconds = f" after {task.seconds:.0f} s" if task.seconds is not None and task.state in ENDED else ""
            console.print(f"{task.name}: {word_for(task.state)}{seconds}", markup=False, highlight=False)


def _seconds(task: Any) -> float | None:
    if task.start_time is None or task.start_time.year < 2000:
        return None
    end = task.end_time
    # The API returns an unset time as the epoch.
    if end is None or end.year < 2000:
        end = datetime.now(UTC)
    return float(max(0.0, (end - task.start_time).total_seconds()))
