"""Argo's Workflow of a run, as Kubeflow returns it: what the task details of its API leave out.

Task details have no pod names, messages or exit codes. They stand still once the node statuses of a Workflow have grown
to 1 MiB: from then on Argo keeps them as `compressedNodes` (gzip in base64; Argo 4.0.5, workflow/packer), from which
Kubeflow 2.17.0 makes no details (backend/src/common/util/workflow.go, NodeStatuses). Kubeflow stores and returns the
object itself whole, by GET /apis/v1beta1/runs/ID (backend/src/apiserver/server/run_server.go, GetRunV1).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lorapar.kubeflow.package import PlannedTask

_POD = "Pod"
_DRIVER = "-driver"
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Skipped": "SKIPPED",
    "Omitted": "SKIPPED",
    "Failed": "FAILED",
    "Error": "FAILED",
}
_ENDED = ("Succeeded", "Failed", "Error")
"""Phases of a Workflow that has ended; Kubeflow learns of it a little later."""
_DUE = ("FAILED", "RUNNING", "PENDING", "SUCCEEDED", "SKIPPED")
"""The order of states where tasks of one node differ: the first that occurs is the node's."""
_EXIT_CODE = re.compile(r"exit code (\d+)")
_TRY = re.compile(r"\(\d+\)$")
_STOPPED = (
    "pod deleted",
    "node shutdown",
    "node is shutting down",
    "preempted",
    "the node was low on resource",
    "the node had condition",
    "pod was rejected",
)
"""Argo's messages, in lower case, about a pod that was removed or that its node rejected: also by a node that has lost
its GPUs for a while, is full, or was relabelled. A pod that exceeds its own limits is not among them.

Argo 4.0.5, workflow/controller/operator.go: podReconciliation writes "pod deleted", and inferFailedReason repeats the
kubelet's message and leaves out its reason, such as Evicted. Those messages are in Kubernetes' pkg/kubelet:
nodeshutdown, preemption/preemption.go, eviction/helpers.go, eviction_manager.go (Admit) and kubelet.go (rejectPod)."""
_NOT_MADE = ("forbidden", "quota", "timeout", "timed out", "too many requests", "try again", "conflict")
"""Argo 4.0.5's message about a node that waits because Kubernetes does not take its pod yet (IsTransientErr)."""
TERMINATED = 143
"""The exit code of a process that SIGTERM ended."""


@dataclass(frozen=True)
class Pod:
    """A pod of a stage, or of Kubeflow's driver before one."""

    name: str
    attempt_of: str
    """The task it is a try of: equal for all tries of one task."""
    nodes: tuple[str, ...]
    """The nodes of the graph that its task runs; none for a group of tasks."""
    state: str
    message: str
    exit_code: int | None
    seconds: float
    """How long it has been in the Workflow."""
    is_driver: bool = False

    @property
    def stopped(self) -> bool:
        """Whether it was ended from outside: by SIGTERM, or removed with its node."""
        message = self.message.lower()
        return self.state == "FAILED" and (self.exit_code == TERMINATED or any(word in message for word in _STOPPED))


@dataclass(frozen=True)
class NodeState:
    """What the Workflow says about one node of the graph."""

    state: str
    seconds: float | None


class Workflow:
    """The parts of the Workflow that are used here."""

    def __init__(self, value: Mapping[str, Any], tasks: Sequence[PlannedTask]) -> None:
        self._value = value
        self._tasks = {task.key: task for task in tasks}
        status = value.get("status") or {}
        self.compressed = bool(status.get("compressedNodes"))
        self._phase = str(status.get("phase") or "")
        self._nodes: list[Mapping[str, Any]] = list(_node_statuses(status).values())

    @property
    def namespace(self) -> str:
        """Where its pods are."""
        return str((self._value.get("metadata") or {}).get("namespace") or "")

    @property
    def cancelled(self) -> bool:
        """Whether somebody terminated the run: Kubeflow sets this deadline and nothing else does.

        Kubeflow 2.17.0, backend/src/apiserver/resource/resource_manager.go, TerminateWorkflow.
        """
        return (self._value.get("spec") or {}).get("activeDeadlineSeconds") == 0

    def states(self) -> dict[str, NodeState]:
        """The state of each node of the graph that was reached; of a loop, the state of its least finished task."""
        found: dict[str, NodeState] = {}
        for node in self._nodes:
            segments = _segments(node)
            task = self._tasks.get(segments[-1]) if segments else None
            if task is None:
                continue
            state = NodeState(_STATES.get(str(node.get("phase")), "PENDING"), _seconds(node))
            for name in task.nodes:
                before = found.get(name)
                if before is None or _DUE.index(state.state) < _DUE.index(before.state):
                    found[name] = state
        return self._with_pods(found)

    def pods(self) -> list[Pod]:
        """The pods of stages, in order of their start; Kubeflow's drivers are left out."""
        found = [pod for node in sorted(self._nodes, key=_started) if (pod := self._pod(node)) is not None]
        return found

    def drivers(self) -> list[Pod]:
        """Pods of Kubeflow's drivers, before lorapar's tasks and of groups of tasks, in order of their start."""
        pods = [node for node in sorted(self._nodes, key=_started) if node.get("type") == _POD]
        segments = [(node, (_segments(node) or [""])[-1]) for node in pods]
        return [
            replace(self._made(node, self._tasks.get(name.removesuffix(_DRIVER))), is_driver=True)
            for node, name in segments
            if name.endswith(_DRIVER)
        ]

    def pods_at_work(self) -> list[str]:
        """Names of all pods, also of Kubeflow's drivers, that have not ended according to the Workflow."""
        pods = [
            node for node in self._nodes if node.get("type") == _POD and node.get("phase") in ("Running", "Pending")
        ]
        return [self._pod_name(node) for node in pods if not _has_no_pod_yet(node)]

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return str((self._value.get("metadata") or {}).get("name") or "")

    @property
    def has_begun(self) -> bool:
        """Whether it ever had a pod."""
        return any(node.get("type") == _POD for node in self._nodes)

    @property
    def message(self) -> str:
        """Argo's message about the whole Workflow, such as why it waits for its turn."""
        return str((self._value.get("status") or {}).get("message") or "")

    def idle_seconds(self) -> float | None:
        """How long it has been idle between two pods or before the first; None where a pod runs or is due.

        Argo looks at a Workflow every few seconds, so the next pod follows soon. Also None where it has ended or is
        suspended, or where something waits that may take hours: a task to be tried again (Argo 4.0.5,
        workflow/controller/operator.go: `spec.suspend`; processNodeRetries' message "Backoff for ..."), or the whole
        for its turn or for a lock (phase Pending: controller.go, "Workflow processing has been postponed because too
        many workflows are already running"; operator.go, operate, "Waiting for ... lock").
        """
        pods = [node for node in self._nodes if node.get("type") == _POD]
        open_phases = ("Running", "Pending")
        if self._phase in (*_ENDED, "Pending") or any(node.get("phase") in open_phases for node in pods):
            return None
        if (self._value.get("spec") or {}).get("suspend") or any(map(_waits_for_its_next_try, self._nodes)):
            return None
        # Kubeflow 2.17.0 keeps the object as Kubernetes returned it (resource_manager.go, CreateRun).
        made = (self._value.get("metadata") or {}).get("creationTimestamp")
        moments = [time for node in pods or [{"startedAt": made}] for time in _times(node)]
        return (datetime.now(UTC) - max(moments)).total_seconds() if moments else None

    def _with_pods(self, states: dict[str, NodeState]) -> dict[str, NodeState]:
        """Correct Argo's states: a task that it calls running is pending while all its unfinished pods are."""
        pods = self.pods()
        for name, state in states.items():
            open_pods = [pod.state for pod in pods if name in pod.nodes and pod.state in ("PENDING", "RUNNING")]
            if state.state == "RUNNING" and open_pods and "RUNNING" not in open_pods:
                states[name] = NodeState("PENDING", state.seconds)
        return states

    def _pod(self, node: Mapping[str, Any]) -> Pod | None:
        segments = _segments(node)
        if node.get("type") != _POD or not segments or segments[-1] != "executor":
            return None
        task = next((self._tasks[one] for one in reversed(segments) if one in self._tasks), None)
        if task is None:
            return None
        return self._made(node, task)

    def _made(self, node: Mapping[str, Any], task: PlannedTask | None) -> Pod:
        message = str(node.get("message") or "")
        return Pod(
            name=self._pod_name(node),
            attempt_of=_TRY.sub("", str(node.get("name"))),
            nodes=task.nodes if task is not None else (),
            state=_STATES.get(str(node.get("phase")), "PENDING"),
            message=message,
            exit_code=_exit_code(node, message),
            seconds=_seconds(node) or 0.0,
        )

    def _pod_name(self, node: Mapping[str, Any]) -> str:
        """The pod's name as Kubeflow derives it (2.17.0, backend/src/common/util/workflow.go, RetrievePodName)."""
        metadata = self._value.get("metadata") or {}
        identity = str(node.get("id") or "")
        if (metadata.get("annotations") or {}).get("workflows.argoproj.io/pod-name-format") == "v1":
            return identity
        name = str(metadata.get("name") or "")
        prefix = name if ".inline" in str(node.get("name")) else f"{name}-{node.get('templateName')}"
        return f"{prefix}-{identity.rpartition('-')[2]}"


def _waits_for_its_next_try(node: Mapping[str, Any]) -> bool:
    return (
        node.get("type") == "Retry"
        and node.get("phase") in ("Running", "Pending")
        and str(node.get("message") or "").startswith("Backoff")
    )


def read_workflow(text: str, tasks: Sequence[PlannedTask]) -> Workflow | None:
    """Parse the manifest; None where the text is not one."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return Workflow(value, tasks) if isinstance(value, dict) else None


def _node_statuses(status: Mapping[str, Any]) -> dict[str, Any]:
    """The plain ones, or the compressed ones unpacked; empty where neither can be read."""
    plain = status.get("nodes")
    if plain:
        return dict(plain)
    try:
        value = json.loads(gzip.decompress(base64.b64decode(str(status.get("compressedNodes") or ""))))
    except (binascii.Error, OSError, EOFError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _segments(node: Mapping[str, Any]) -> list[str]:
    """`run.root.exit-handler-1.stages.tally-2.executor(0)` is a path; numbers of loop items and tries are removed."""
    return re.sub(r"\([^)]*\)", "", str(node.get("name") or "")).split(".")[1:]


def _has_no_pod_yet(node: Mapping[str, Any]) -> bool:
    message = str(node.get("message") or "").lower()
    return node.get("phase") == "Pending" and any(word in message for word in _NOT_MADE)


def _exit_code(node: Mapping[str, Any], message: str) -> int | None:
    code = str((node.get("outputs") or {}).get("exitCode") or "")
    match = _EXIT_CODE.search(message)
    text = code or (match[1] if match else "")
    return int(text) if text.isdigit() else None


def _started(node: Mapping[str, Any]) -> str:
    return str(node.get("startedAt") or "")


def _seconds(node: Mapping[str, Any]) -> float | None:
    times = list(_times(node))
    if not times:
        return None
    end = times[1] if len(times) > 1 else datetime.now(UTC)
    return max(0.0, (end - times[0]).total_seconds())


def _times(node: Mapping[str, Any]) -> Iterator[datetime]:
    for key in ("startedAt", "finishedAt"):
        try:
            yield datetime.fromisoformat(str(node.get(key) or "").replace("Z", "+00:00"))
        except ValueError:
            return
