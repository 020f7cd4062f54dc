"""Builds a TrainJob of Kubeflow Trainer 2 from the placement file and from the pod of the task that starts it.

The nodes need what the task has: environment, volumes, credentials, certificate authorities, placement and user. All of
this is read from the task's own pod, after Kubeflow, Argo and the platform have changed it. Argo's and Kubeflow's own
parts are left out. (2.3.0 of github.com/kubeflow/trainer, pkg/apis/trainer/v1alpha1/trainjob_types.go.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lorapar.kubeflow.tasks import Takes

GROUP, VERSION, PLURAL, KIND = "trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"
NODES_VARIABLE = "LORAPAR_NODES"
"""What the placement file asks for, as JSON, in the environment of a task that starts a TrainJob."""
ATTEMPT_VARIABLE = "LORAPAR_ATTEMPT"
"""In a node of a TrainJob: where in the store it writes its outcome."""
RUN_LABEL, NODE_LABEL = "lorapar/run", "lorapar/node"
KEY_ANNOTATION, ATTEMPT_ANNOTATION = "lorapar/key", "lorapar/attempt"
RUNTIME = "torch-distributed"
"""The runtime that Kubeflow Trainer ships for torch."""
CONTAINER = "node"
"""The only container of a node that a TrainJob may set, and its replicated job (pkg/constants)."""
_MAIN = "main"
"""Argo's name for a task's container."""
_MANAGER = "lorapar"
_GRACE_SECONDS = 120
"""How long a node that gets SIGTERM has for its step and its last checkpoint."""
_NOT_CARRIED = ("/var/run/", "/kfp-launcher/", "/gcs/", "/s3/", "/minio/", "/.local/", "/.cache/", "/.config/")
"""Mounts of Argo and of Kubeflow's launcher (2.17.0, argocompiler/container.go), and tokens that Kubernetes adds."""
_OTHERS_VARIABLES = ("ARGO_", "KFP_", "PET_", "LORAPAR_NODES", "LORAPAR_ATTEMPT")
_OTHERS_LABELS = ("workflows.argoproj.io/", "kueue.x-k8s.io/", "batch.kubernetes.io/", "jobset.sigs.k8s.io/")
_QUEUE = "kueue.x-k8s.io/"
_MESH = "sidecar.istio.io/inject"


class SeveralNodes(BaseModel):
    """What a placement file asks for a stage that trains on several nodes."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    nodes: int = Field(ge=2)
    processes: int = Field(ge=1)
    """On each node."""
    runtime: str = RUNTIME
    """Name of a ClusterTrainingRuntime."""
    image: str | None = None
    """None: the task's own."""
    accelerator: str = "nvidia.com/gpu"
    count: int = Field(0, ge=0)
    """Accelerators of each node."""
    cpu: str | None = None
    memory: str | None = None
    timeout_seconds: int | None = None
    annotations: dict[str, str] = {}

    @property
    def takes(self) -> Takes:
        """What the nodes take of the cluster."""
        return Takes(count=self.count, accelerator=self.accelerator, nodes=self.nodes, processes=self.processes)


@dataclass(frozen=True)
class JobName:
    """The name of a task's job: the same task, tried again, has the same name and finds its job."""

    run: str
    node: str
    key: str
    """Digest of everything that the node's outputs depend on."""

    @property
    def text(self) -> str:
        """A name that leaves room for those of the job's pods, which are 63 characters at most."""
        digest = hashlib.sha256(f"{self.run}/{self.node}/{self.key}".encode()).hexdigest()
        return f"lorapar-{self.node}-{digest[:12]}"


def train_job(
    pod: Mapping[str, Any], wanted: SeveralNodes, name: JobName, attempt: str, command: Sequence[str]
) -> dict[str, Any]:
    """The resource. Its owner is the run's Workflow, which also owns the task's pod.

    Args:
        pod: the task's own pod, as Kubernetes gives it.
        wanted: what the placement file says.
        name: of the job.
        attempt: where each node leaves how it ended.
        command: what each node runs, as a task does.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    main = next(one for one in spec["containers"] if one["name"] == _MAIN)
    labels = metadata.get("labels") or {}
    own = {RUN_LABEL: name.run, NODE_LABEL: name.node}
    env = [one for one in main.get("env") or [] if not one["name"].startswith(_OTHERS_VARIABLES)]
    # Kubernetes replaces $(NAME) in arguments by variables; keep these arguments unchanged.
    literal = [one.replace("$(", "$$(") for one in command]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {
            "name": name.text,
            "labels": {**own, **{key: value for key, value in labels.items() if key.startswith(_QUEUE)}},
            "annotations": {KEY_ANNOTATION: name.key, ATTEMPT_ANNOTATION: attempt},
            "ownerReferences": [_owner(metadata)],
        },
        "spec": {
            "runtimeRef": {"name": wanted.runtime},
            "trainer": {
                "image": wanted.image or main["image"],
                "command": literal[:3],
                "args": literal[3:],
                "env": [*env, {"name": ATTEMPT_VARIABLE, "value": attempt}],
                "numNodes": wanted.nodes,
                "numProcPerNode": wanted.processes,
                **_resources(wanted),
            },
            "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(pod, main, wanted, own)}],
            **({"activeDeadlineSeconds": wanted.timeout_seconds} if wanted.timeout_seconds else {}),
        },
    }


def _owner(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The task's own owner. A retry is a new pod, and finds the job that the first pod started."""
    for one in metadata.get("ownerReferences") or []:
        if one["kind"] == "Workflow":
            return {key: one[key] for key in ("apiVersion", "kind", "name", "uid")}
    return {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}


def _resources(wanted: SeveralNodes) -> dict[str, Any]:
    held = {"cpu": wanted.cpu, "memory": wanted.memory, wanted.accelerator: str(wanted.count) if wanted.count else None}
    given = {name: value for name, value in held.items() if value is not None}
    return {"resourcesPerNode": {"limits": given, "requests": given}} if given else {}


def _patch(
    pod: Mapping[str, Any], main: Mapping[str, Any], wanted: SeveralNodes, own: Mapping[str, str]
) -> dict[str, Any]:
    """The parts of the task's pod that a node gets: the fields that a TrainJob may patch in its runtime."""
    spec, metadata = pod["spec"], pod["metadata"]
    mounts = [one for one in main.get("volumeMounts") or [] if not f"{one['mountPath']}/".startswith(_NOT_CARRIED)]
    named = {one["name"] for one in mounts}
    container = {"name": CONTAINER, "volumeMounts": mounts, "securityContext": main.get("securityContext")}
    carried = {
        "serviceAccountName": spec.get("serviceAccountName"),
        "volumes": [one for one in spec.get("volumes") or [] if one["name"] in named],
        "imagePullSecrets": spec.get("imagePullSecrets"),
        "securityContext": spec.get("securityContext"),
        "nodeSelector": spec.get("nodeSelector"),
        "affinity": spec.get("affinity"),
        "tolerations": [one for one in spec.get("tolerations") or [] if not _is_added(one)],
        "terminationGracePeriodSeconds": max(_GRACE_SECONDS, spec.get("terminationGracePeriodSeconds") or 0),
        "containers": [{key: value for key, value in container.items() if value}],
    }
    labels = {key: one for key, one in (metadata.get("labels") or {}).items() if not key.startswith(_OTHERS_LABELS)}
    annotations = {**wanted.annotations}
    if _MESH in (metadata.get("annotations") or {}):
        annotations[_MESH] = metadata["annotations"][_MESH]
    about = {"labels": {**labels, **own}, **({"annotations": annotations} if annotations else {})}
    template = {"metadata": about, "spec": {key: value for key, value in carried.items() if value}}
    return {
        "template": {"spec": {"replicatedJobs": [{"name": CONTAINER, "template": {"spec": {"template": template}}}]}}
    }


def _is_added(toleration: Mapping[str, Any]) -> bool:
    """Whether Kubernetes adds it to every pod by itself."""
    return str(toleration.get("key", "")).startswith("node.kubernetes.io/")
