"""A task's requests to Kubernetes' API: its own pod, the TrainJob it starts, and that job's pods and logs.

The kubernetes client and the types of Kubeflow Trainer's own package do the work. (The kubeflow SDK 0.5.0 sets image
and command, but no owner of the job, no variable from a Secret, and no number of processes.)
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorapar.errors import BadInputError, UnreachableError
from lorapar.extras import pip_install
from lorapar.kubeflow.trainjob import CONTAINER, GROUP, KIND, PLURAL, VERSION, SeveralNodes
from lorapar.redaction import redact

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PODS_OF = "jobset.sigs.k8s.io/jobset-name"
"""The label of a job's pods (constants.go of the kubeflow SDK)."""
_SECONDS = (10, 60)
"""Time-outs for connecting and for an answer."""
_LATER = (408, 429)
_PATCHES = "runtimePatches"
_TOO_OLD = (
    "the Kubeflow Trainer of this cluster is too old: its TrainJobs have no `runtimePatches`, without which nodes "
    "would have no volumes, credentials or labels; install Kubeflow Trainer 2.3, or place no `nodes`"
)
_RANK = "batch.kubernetes.io/job-completion-index"
_QUEUE = "kueue.x-k8s.io/queue-name"
_SIGNALLED = 128
"""Shells and Kubernetes add this to a signal's number to get the exit code."""


class AlreadyThereError(Exception):
    """An object of this name exists."""


class TrainerApi:
    """The calls, each with one-line errors: BadInputError where Kubernetes refuses, UnreachableError where it fails."""

    def __init__(self) -> None:
        """Find the cluster: the one this pod is in, asked without a proxy, else that of the kubectl context."""
        try:
            from kubernetes import client, config
        except ModuleNotFoundError:
            raise BadInputError(f"several nodes need the kubernetes client: {pip_install('trainjob')}") from None
        settings, file = client.Configuration(), os.environ.get("KUBECONFIG")  # the client reads it only at import
        try:
            if _NAMESPACE.is_file():
                config.load_incluster_config(settings)
                settings.proxy, self.namespace = None, _NAMESPACE.read_text().strip()
            else:
                config.load_kube_config(file, client_configuration=settings)
                context = config.list_kube_config_contexts(file)[1]["context"]
                self.namespace = str(context.get("namespace") or "default")
        except (config.ConfigException, OSError) as error:
            raise BadInputError(f"several nodes: this is no pod of a cluster, and kubectl has none ({error})") from None
        caller = client.ApiClient(settings)
        self._custom, self._core = client.CustomObjectsApi(caller), client.CoreV1Api(caller)
        self._place = (GROUP, VERSION, self.namespace, PLURAL)

    def pod(self, name: str) -> dict[str, Any]:
        """A pod, as Kubernetes returns it."""
        with _errors(f"looking at the pod {name}"):
            answer = self._core.read_namespaced_pod(
                name, self.namespace, _preload_content=False, _request_timeout=_SECONDS
            )
            return dict(json.loads(answer.data))

    def create(self, job: Mapping[str, Any]) -> None:
        """Start a TrainJob; raises AlreadyThereError where one of its name exists.

        An older Kubeflow Trainer, whose TrainJobs have no `runtimePatches`, would start nodes without volumes and
        credentials. So this asks Kubernetes to refuse fields that it would drop (1.27, fieldValidation).
        """
        from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
        from kubernetes.client import ApiException

        try:
            typed = TrainerV1alpha1TrainJob.from_dict(dict(job))
        except ValidationError as error:
            problem = error.errors()[0]
            raise BadInputError(f"the TrainJob: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
        with _errors(f"starting the TrainJob {job['metadata']['name']}"):
            try:
                made = self._custom.create_namespaced_custom_object(
                    *self._place, typed.to_dict(), field_validation="Strict", _request_timeout=_SECONDS
                )
            except ApiException as error:
                if error.status == 409:
                    raise AlreadyThereError from None
                if error.status in (400, 422) and _PATCHES in _message(error) and "unknown field" in _message(error):
                    raise BadInputError(_TOO_OLD) from None
                raise
        if not made["spec"].get(_PATCHES):
            self.delete(str(job["metadata"]["name"]))
            raise BadInputError(_TOO_OLD)

    def job(self, name: str) -> dict[str, Any] | None:
        """A TrainJob; None where there is none of this name."""
        from kubernetes.client import ApiException

        with _errors(f"looking at the TrainJob {name}"):
            try:
                found = self._custom.get_namespaced_custom_object(*self._place, name, _request_timeout=_SECONDS)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return dict(found)

    def delete(self, name: str) -> None:
        """Delete a TrainJob: its pods get SIGTERM, and it exists until the last of them has gone."""
        from kubernetes.client import ApiException

        with _errors(f"deleting the TrainJob {name}"):
            try:
                self._custom.delete_namespaced_custom_object(
                    *self._place, name, propagation_policy="Foreground", _request_timeout=_SECONDS
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def pods(self, job: str) -> list[dict[str, Any]]:
        """The pods of a job."""
        with _errors(f"listing the pods of {job}"):
            answer = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{_PODS_OF}={job}",
                _preload_content=False,
                _request_timeout=_SECONDS,
            )
            return list(json.loads(answer.data)["items"])

    def log(self, pod: str) -> Iterator[tuple[str, str]]:
        """The lines of a pod's log as they come, each with its time; ends with the container."""
        with _errors(f"reading the log of {pod}"):
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=CONTAINER, follow=True, timestamps=True, _preload_content=False
            )
            left = b""
            for part in answer.stream(amt=None):
                *lines, left = (left + part).split(b"\n")
                for line in lines:
                    moment, _, text = line.decode(errors="replace").partition(" ")
                    yield moment, text


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        message = _message(error)
        if error.status in _LATER or error.status >= 500:
            raise UnreachableError(f"{doing}: Kubernetes says {error.status}: {message}") from None
        if error.status == 403 and "cannot" in message:  # an admission webhook also denies with 403
            message += "; give the ServiceAccount of the runs the right (the chart's pipeline.trainJobs.enabled does)"
        if error.status == 404 and KIND in doing:
            message += "; Kubeflow Trainer 2 must be installed in the cluster"
        raise BadInputError(f"{doing}: Kubernetes refuses ({error.status}): {message}") from None
    except (HTTPError, OSError) as error:
        raise UnreachableError(f"{doing}: Kubernetes does not answer: {redact(str(error))}") from None


def _message(error: Any) -> str:
    """Kubernetes' own words."""
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = str(error.reason)
    return redact(" ".join(message.split()))


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
