"""Argo's Workflow of a run, made from a compiled package and what is to become of each node of the graph.

Faithful to Kubeflow Pipelines 2.17.0 and Argo 4.0.5 in what lorapar reads of it:
- tasks, drivers and executors and their names: backend/src/v2/compiler/argocompiler/dag.go and container.go;
- the pod of a task, two levels below it: names as in backend/src/common/util/workflow.go, RetrievePodName;
- task details are made of plain node statuses only, by Argo's display names, without pod names or messages:
  backend/src/apiserver/server/api_converter.go, toModelTask and toApiPipelineTaskDetail;
- from 1 MiB on the node statuses are `compressedNodes`: argo-workflows workflow/packer/packer.go.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api

from lorapar.stages.graph import node_names

NAME = "lorapar-x7k2p"
NAMESPACE = "team"
BEGAN = datetime.now(UTC) - timedelta(minutes=30)
PHASES = {"SUCCEEDED": "Succeeded", "CACHED": "Succeeded", "FAILED": "Failed", "RUNNING": "Running"}
PHASES |= {"PENDING": "Pending", "SKIPPED": "Skipped", "OMITTED": "Omitted"}


@dataclass(frozen=True)
class Fate:
    """What becomes of a node's pod."""

    state: str = "SUCCEEDED"
    log: str | None = None
    """None: neither the pod nor an archived log is there."""
    archived: bool = False
    """The pod is gone, Argo has kept its log."""
    exit_code: int | None = None
    message: str = ""
    made: bool = True
    """Whether there is a pod; a quota keeps Argo from making one, and its node is Pending then."""
    driver: str = "Succeeded"
    """The phase of the driver pod before it."""


def fate(value: Fate | str) -> Fate:
    return value if isinstance(value, Fate) else Fate(value)


@dataclass
class Argo:
    """The nodes of a Workflow."""

    spec: dict[str, Any]
    fates: Mapping[str, Fate]
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, Fate] = field(default_factory=dict)
    """What becomes of the log of each pod."""

    def __post_init__(self) -> None:
        self._add(NAME, NAME, "DAG", "entrypoint", "Running")
        self._add(f"{NAME}.root-driver", "root-driver", "Pod", "system-dag-driver", "Succeeded")
        self._dag(f"{NAME}.root", self.spec["root"])

    def _dag(self, path: str, component: dict[str, Any]) -> list[str]:
        """A group of tasks, with a driver pod of its own; the phases of what is in it."""
        phases = []
        for key, task in component["dag"]["tasks"].items():
            inner = self.spec["components"][task["componentRef"]["name"]]
            name = task["taskInfo"]["name"]
            exits = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            below = f"{path}.{task['dependentTasks'][0]}.onExit" if exits else path
            if "dag" not in inner:
                phases += self._task(f"{below}.{key}", key, inner, self.fates.get(name))
            elif name not in node_names() or name in self.fates:
                phases += self._group(f"{below}.{key}", key, inner, task, self.fates.get(name))
        return phases

    def _group(
        self, path: str, key: str, component: dict[str, Any], task: dict[str, Any], given: Fate | None
    ) -> list[str]:
        loops = "parameterIterator" in task or "artifactIterator" in task
        inside = f"{path}.iteration-iterations(0:0).iteration-item" if loops else path
        outer, self.fates = self.fates, self._within(component, given)
        phases = self._dag(inside, component)
        self.fates = outer
        if not phases:
            return []
        phase = _of(phases)
        self._add(f"{path}-driver", f"{key}-driver", "Pod", "system-dag-driver", "Succeeded")
        self._add(path, key, "DAG", task["componentRef"]["name"], phase)
        return [phase]

    def _within(self, component: dict[str, Any], given: Fate | None) -> Mapping[str, Fate]:
        """Inside a group that stands for a node, every task has its fate."""
        if given is None:
            return self.fates
        names, waiting = {}, [component]
        while waiting:
            for task in waiting.pop().get("dag", {}).get("tasks", {}).values():
                names[task["taskInfo"]["name"]] = given
                waiting.append(self.spec["components"][task["componentRef"]["name"]])
        return names

    def _task(self, path: str, key: str, component: dict[str, Any], given: Fate | None) -> list[str]:
        """A driver pod, the executor's group, and in it the pod that the stage runs in."""
        if given is None:
            return []
        driver = self._add(f"{path}-driver", f"{key}-driver", "Pod", "system-container-driver", given.driver)
        if given.driver in ("Pending", "Failed"):
            self._ends(driver, given)
            if given.driver == "Failed":
                self._add(path, key, "Skipped", "retry-system-container-executor", "Omitted")
                self.logs[f"{NAME}-system-container-driver-{driver['id'].rpartition('-')[2]}"] = given
            return [given.driver]
        phase = PHASES[given.state]
        # Argo calls a group running from its first moment, pending pods or not.
        self._add(path, key, "DAG", "retry-system-container-executor", "Running" if phase == "Pending" else phase)
        if given.state == "CACHED":
            self._add(f"{path}.executor", "executor", "Skipped", "retry-system-container-impl", "Skipped")
        elif given.state not in ("SKIPPED", "OMITTED"):
            # A task with a retry strategy: its tries are pods below a node of the type Retry.
            self._add(f"{path}.executor", "executor", "Retry", "retry-system-container-impl", phase)
            pod = self._add(f"{path}.executor(0)", "executor(0)", "Pod", "retry-system-container-impl", phase)
            self._ends(pod, given)
            self.logs[f"{NAME}-retry-system-container-impl-{pod['id'].rpartition('-')[2]}"] = given
        return [phase]

    def _ends(self, pod: dict[str, Any], given: Fate) -> None:
        """What Argo says of a pod's end, or of why it has not begun."""
        pod["message"] = given.message or (f"Error (exit code {given.exit_code})" if given.exit_code else "")
        if given.exit_code is not None:
            pod["outputs"] = {"exitCode": str(given.exit_code)}

    def _add(self, name: str, display: str, kind: str, template: str, phase: str) -> dict[str, Any]:
        identity = f"{NAME}-{zlib.crc32(name.encode())}"
        began, ended = BEGAN, BEGAN + timedelta(minutes=1)
        node = {"id": identity, "name": name, "displayName": display, "type": kind, "templateName": template}
        node |= {"phase": phase, "startedAt": f"{began:%Y-%m-%dT%H:%M:%SZ}", "message": ""}
        node["finishedAt"] = f"{ended:%Y-%m-%dT%H:%M:%SZ}" if phase not in ("Running", "Pending") else None
        self.nodes[identity] = node
        return node

    def manifest(self, *, packed: bool = False, deadline: int | None = None, begun: bool = True) -> dict[str, Any]:
        """The object as Kubeflow stores it."""
        status: dict[str, Any] = {"phase": "Running"} if begun else {}
        if packed:
            status["compressedNodes"] = base64.b64encode(gzip.compress(json.dumps(self.nodes).encode())).decode()
        elif begun:
            status["nodes"] = self.nodes
        made = f"{BEGAN:%Y-%m-%dT%H:%M:%SZ}"
        metadata = {"name": NAME, "namespace": NAMESPACE, "annotations": {}, "creationTimestamp": made}
        spec = {} if deadline is None else {"activeDeadlineSeconds": deadline}
        return {"apiVersion": "argoproj.io/v1alpha1", "metadata": metadata, "spec": spec, "status": status}

    def details(self) -> list[api.V2beta1PipelineTaskDetail]:
        """What Kubeflow makes of the node statuses."""
        states = {"Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED", "Skipped": "SKIPPED"}
        states |= {"Failed": "FAILED", "Error": "FAILED", "Omitted": "RUNTIME_STATE_UNSPECIFIED"}
        return [
            api.V2beta1PipelineTaskDetail(
                task_id=f"task-{identity}",
                display_name=node["displayName"],
                state=states[node["phase"]],
                start_time=BEGAN,
                end_time=BEGAN + timedelta(minutes=1) if node["finishedAt"] else datetime.fromtimestamp(0, UTC),
            )
            for identity, node in self.nodes.items()
        ]


def _of(phases: list[str]) -> str:
    """The phase of a group: that of the worst in it."""
    order = ("Failed", "Running", "Pending", "Omitted", "Skipped", "Succeeded")
    worst = next(phase for phase in order if phase in phases)
    return "Running" if worst == "Pending" else worst
