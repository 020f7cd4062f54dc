"""The pods of a TrainJob: which node each is, whether it started, what it waits for, how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.kubeflow.trainjob import CONTAINER, SeveralNodes

_RANK = "batch.kubernetes.io/job-completion-index"
_QUEUE = "kueue.x-k8s.io/queue-name"
_SIGNALLED = 128
"""Shells and Kubernetes add this to a signal's number to get the exit code."""


@dataclass(frozen=True)
class JobPod:
    """One pod."""

    name: str
    rank: int
    started: bool
    """Whether its container runs, or has run."""
    ended: bool
    """Whether its container has ended, even if it was started again."""
    exit_code: int | None
    reason: str
    waits_for: str
    """Why it has not started, in Kubernetes' words."""
    leaving: bool
    """Whether it was asked to end: by the job's suspension, a drained node or a person."""

    @property
    def failed(self) -> bool:
        """Whether it ended with an error of its own, which a pod that was asked to end did not."""
        return self.exit_code not in (None, 0) and not self.leaving

    @classmethod
    def of(cls, pod: Mapping[str, Any]) -> JobPod:
        """From its object in Kubernetes."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        container: Mapping[str, Any] = next(
            (one for one in status.get("containerStatuses") or [] if one["name"] == CONTAINER), {}
        )
        state = container.get("state") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
        gone = status.get("phase") in ("Failed", "Succeeded")
        labels = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
        return cls(
            name=str(metadata["name"]),
            rank=int(labels.get(_RANK, -1)),
            started=state.get("running") is not None or ended is not None or gone,
            ended=ended is not None or gone,
            exit_code=_exit_code(ended, str(status.get("phase"))),
            reason=str((ended or {}).get("reason") or status.get("reason") or ""),
            waits_for=_waits_for(status, state),
            leaving=bool(metadata.get("deletionTimestamp")),
        )


def ended_by_signal(pod: JobPod) -> bool:
    """Whether it was killed rather than asked to stop; no error of its own ends this way."""
    return pod.exit_code is not None and pod.exit_code == _SIGNALLED + signal.SIGKILL


def why_not_started(job: Mapping[str, Any], pods: Sequence[JobPod], wanted: SeveralNodes, namespace: str) -> str:
    """One line that names what a job's pods wait for and where to look."""
    metadata = job["metadata"]
    name, conditions = str(metadata["name"]), (job.get("status") or {}).get("conditions") or []
    look = f"kubectl -n {namespace}"
    if any(one["type"] == "Suspended" and one["status"] == "True" for one in conditions):
        queue = (metadata.get("labels") or {}).get(_QUEUE)
        who = f"Kueue has not admitted it to the queue {queue}" if queue else "somebody has suspended it"
        return f"the TrainJob {name} is suspended: {who}; see {look} get workloads"
    waiting = [pod for pod in pods if not pod.started]
    if not waiting:
        made = f"{len(pods)} of {wanted.nodes} pods have been made"
        return f"the TrainJob {name} has not started: {made}; see {look} describe trainjob,jobset {name}"
    first = min(waiting, key=lambda pod: pod.rank)
    held = f", which asks for {wanted.count} {wanted.accelerator}," if wanted.count else ""
    why = f": {first.waits_for}" if first.waits_for else ""
    return f"the TrainJob {name} has not started: {first.name}{held} waits{why}; see {look} describe pod {first.name}"


def _exit_code(ended: Mapping[str, Any] | None, phase: str) -> int | None:
    if ended is not None:
        return int(ended["exitCode"])
    return _SIGNALLED + signal.SIGKILL if phase == "Failed" else None  # evicted, or its node is gone


def _waits_for(status: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    waiting = state.get("waiting") or {}
    if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return " ".join(f"{waiting['reason']} {waiting.get('message') or ''}".split())
    for one in status.get("conditions") or []:
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return " ".join(str(one.get("message") or one.get("reason") or "").split())
    return ""
