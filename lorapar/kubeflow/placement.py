"""The placement file of `lorapar compile`: accelerators, nodes, memory, volumes and environment of tasks.

A group is a stage, or `others` for every stage without its own group. What KFP resolves during a run (`gpu_pool`, the
accelerators of a vote task) stays a parameter; a node selector given here replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from lorapar.config.base import Positive, Section
from lorapar.config.load import parse_settings, read_text
from lorapar.config.mistakes import validated
from lorapar.errors import BadInputError, nearest
from lorapar.kubeflow.tasks import host_of, tasks_of_stage
from lorapar.kubeflow.trainjob import ATTEMPT_VARIABLE, NODES_VARIABLE, RUNTIME, SeveralNodes
from lorapar.network import OWN_VARIABLE, S3_VARIABLE, SHARED_VARIABLES
from lorapar.redaction import redact
from lorapar.stages.contract import STAGE_NAMES

MODELS = "/models"
"""Where a task keeps its copy of the base models."""
AUTHORITIES = "/etc/lorapar/ca"
"""Where the ConfigMap with a company's certificate authorities is mounted, also in the chart's pods."""
OTHERS = "others"
ON_NODES = ("sft", "rl")
"""Stages that several nodes can run together."""
_NAMED_BY_TASKS = ("LORAPAR_RUN", "LORAPAR_IMAGES", NODES_VARIABLE, ATTEMPT_VARIABLE)
_PIPELINES_OWN = (*_NAMED_BY_TASKS, *(OWN_VARIABLE, S3_VARIABLE, *SHARED_VARIABLES))
_SECRET = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_KEY|ACCESS_KEY|PRIVATE_KEY)$")
_DIRECT = (
    "localhost,127.0.0.1,::1,$(KUBERNETES_SERVICE_HOST),kubernetes.default.svc,metadata-grpc-service,ml-pipeline,"
    ".svc,.cluster.local,.kubeflow"
)
"""Hosts that Kubeflow's launcher in each task asks without a proxy; Kubernetes fills in its own address."""

_FOLLOWER = {"CpuRequest": "1", "CpuLimit": "1", "MemoryRequest": "2Gi", "MemoryLimit": "2Gi"}
"""Resources of a pod that only follows a TrainJob."""
MLFLOW = ("experiment_name", "experiment_id", "disabled")
"""What Kubeflow's own plugin `mlflow` takes (2.17.0, backend/src/apiserver/plugins/mlflow/config.go)."""

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Plugin = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Entry = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$")]
LabelKey = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Runtime = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


def _name_alone(value: Any) -> Any:
    """Read `{name: NAME}`, as Kubernetes writes references, like `NAME`."""
    return value["name"] if isinstance(value, dict) and set(value) == {"name"} else value


PullSecret = Annotated[Label, BeforeValidator(_name_alone)]


class Toleration(Section):
    """A taint that tasks tolerate."""

    key: str = Field(description="Key of the taint")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Whether the value counts")
    value: str = Field("", description="Value of the taint, for Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("NoSchedule", description="Its effect")


class FromSecret(Section):
    """A variable whose value is in a Secret; the compiled pipeline holds only the name."""

    secret: Label = Field(description="Name of the Secret")
    key: Entry = Field(description="Entry of the Secret")
    optional: bool = Field(False, description="Whether the task starts without it")


class FromConfigMap(Section):
    """A variable whose value stands in a ConfigMap."""

    config_map: Label = Field(description="Name of the ConfigMap")
    key: Entry = Field(description="Entry of the ConfigMap")
    optional: bool = Field(False, description="Whether the task starts without it")


Environment = dict[Variable, str | FromSecret | FromConfigMap]


class CaBundle(Section):
    """The company's own certificate authorities, which tasks trust in addition to the public ones."""

    config_map: Label | None = Field(None, description="ConfigMap with certificates, in the namespace of the runs")
    secret: Label | None = Field(None, description="Secret with them instead, as cert-manager makes one")
    entry: Entry = Field("ca.crt", description="Entry of the ConfigMap or Secret, PEM")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.config_map is None) == (self.secret is None):
            raise ValueError("give config_map or secret, one of the two")
        return self


class ModelVolume(Section):
    """Where base models are kept: the node's disk, a volume of the task's own, or a claim that tasks share."""

    size: Quantity = Field("50Gi", description="Most room that models take")
    storage_class: str | None = Field(
        None, description="A volume of this class instead of the node's disk; pods need an fsGroup for it"
    )
    claim: Label | None = Field(None, description="A claim with the models in it (ReadOnlyMany), instead of a volume")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.claim is not None and self.model_fields_set & {"size", "storage_class"}:
            raise ValueError("a claim has its size and class already: leave size and storage_class out")
        return self


class Group(Section):
    """How the tasks of one stage are placed; absent keys stay as in the shipped pipeline."""

    accelerator: str | None = Field(None, description="Resource name, such as nvidia.com/gpu")
    count: Annotated[int, Field(ge=0)] | None = Field(None, description="Accelerators a task holds; 0: none")
    node_selector: dict[str, str] | None = Field(None, description="Labels of nodes, instead of `gpu_pool`")
    tolerations: tuple[Toleration, ...] | None = Field(None, description="Taints that tasks put up with")
    queue: Label | None = Field(None, description="Kueue's local queue")
    priority: Label | None = Field(None, description="Kueue's workload priority class")
    cpu: Quantity | None = Field(None, description="Processors requested, and the limit")
    memory: Quantity | None = Field(None, description="Memory requested, and the limit")
    shared_memory: Quantity | None = Field(None, description="Limit of /dev/shm, which counts as memory")
    models: ModelVolume | None = Field(None, description="Where base models are kept")
    nodes: Positive | None = Field(None, description="Nodes that sft or rl trains on, by a TrainJob; 1: in its own pod")
    processes: Positive | None = Field(None, description="Processes on each of several nodes; one an accelerator")
    runtime: Runtime | None = Field(None, description=f"ClusterTrainingRuntime of several nodes; {RUNTIME}")
    image: Image | None = Field(None, description="Image of several nodes; the task's own")
    timeout_seconds: Positive | None = Field(None, description="A task that runs longer is stopped")
    retries: Annotated[int, Field(ge=0)] | None = Field(None, description="How often a failed task is tried again")
    env: Environment = Field({}, description="Variables, beside those of all tasks and before them")
    labels: dict[LabelKey, LabelValue] = Field({}, description="Labels of the pods, beside those of all tasks")
    annotations: dict[LabelKey, str] = Field({}, description="Annotations of the pods, beside those of all tasks")

    _plain = field_validator("env")(lambda env: checked_environment(env))

    @model_validator(mode="after")
    def _nodes_alone(self) -> Self:
        """Refuse settings for several nodes where there is only one."""
        if (self.nodes or 1) == 1:
            for name in ("processes", "runtime", "image"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is of several nodes: give nodes too, 2 or more")
        elif self.count and self.processes is not None and self.processes > self.count:
            raise ValueError(
                f"{self.processes} processes need as many accelerators on each node, and count is {self.count}"
            )
        return self


class Placement(Section):
    """All groups, and settings that every task shares."""

    groups: dict[str, Group] = Field({}, description="By stage; `others` for the rest")
    image_pull_secrets: tuple[PullSecret, ...] = Field((), description="Secrets for the images' registry")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When images are pulled"
    )
    credentials_secret: Label | None = Field(None, description="Secret with AWS_... and HF_TOKEN; may be missing")
    user: Positive | None = Field(
        None, description="Numeric user and group that tasks run as; null: what the platform gives, as on OpenShift"
    )
    ca_bundle: CaBundle | None = Field(None, description="Authorities of the company's own, for every task")
    env: Environment = Field({}, description="Variables of every task, such as HTTPS_PROXY and NO_PROXY")
    labels: dict[LabelKey, LabelValue] = Field({}, description="Labels of every task's pod")
    annotations: dict[LabelKey, str] = Field({}, description="Annotations of every task's pod")
    vote_parallelism: Positive | None = Field(None, description="Hard bound on vote tasks at once")

    plugins: dict[Plugin, dict[Variable, str | bool]] = Field(
        {}, description="Input for plugins of Kubeflow's server, such as mlflow: {experiment_name: NAME}, for each run"
    )

    _plain = field_validator("env")(lambda env: checked_environment(env))
    _known = field_validator("plugins")(lambda plugins: checked_plugins(plugins))

    def group(self, stage: str) -> Group:
        """How a stage's tasks are placed."""
        return self.groups.get(stage) or self.groups.get(OTHERS) or Group()


def checked_environment(env: Environment) -> Environment:
    """The variables; raises ValueError if the pipeline sets one itself or one looks like a secret."""
    for name, value in env.items():
        if name in _PIPELINES_OWN:
            how = "name authorities by ca_bundle" if name not in _NAMED_BY_TASKS else "leave it out"
            raise ValueError(f"{name} is set by the pipeline itself; {how}")
        if isinstance(value, str) and value and (_SECRET.search(name.upper()) or redact(value) != value):
            raise ValueError(
                f"{name} looks like a secret, and the compiled pipeline can be read by many; put it into a Secret: "
                f"{name}: {{secret: NAME, key: {name}}}"
            )
    return env


def checked_plugins(plugins: dict[str, dict[str, str | bool]]) -> dict[str, dict[str, str | bool]]:
    """The input for plugins; raises ValueError for keys that a known plugin does not take."""
    for key, value in plugins.get("mlflow", {}).items():
        if key not in MLFLOW:
            raise ValueError(f"mlflow takes {', '.join(MLFLOW)}{nearest(key, list(MLFLOW))}")
        if key == "disabled" and not isinstance(value, bool):
            raise ValueError(f"mlflow.{key}: expected true or false")
        if key != "disabled" and not isinstance(value, str):
            raise ValueError(f"mlflow.{key}: expected a text")
    return plugins


def plugins_of(path: Path | None) -> dict[str, dict[str, str | bool]]:
    """The input for plugins that a placement file names."""
    return read_placement(path).plugins if path is not None else {}


def mounts_of(path: Path | None) -> tuple[str, ...]:
    """Folders that only pods have: where a placement file mounts a claim, the folder of models."""
    groups = read_placement(path).groups.values() if path is not None else ()
    return (MODELS,) if any(group.models is not None and group.models.claim is not None for group in groups) else ()


def read_placement(path: Path) -> Placement:
    """Read a placement file; raises BadInputError with the key that is wrong."""
    origin = f"--placement: {path}"
    placement = validated(Placement, parse_settings(read_text(path, "--placement"), origin), origin)
    for name in placement.groups:
        if name not in (*STAGE_NAMES, OTHERS):
            known = [*STAGE_NAMES, OTHERS]
            raise BadInputError(f"--placement: {path}: groups.{name}: no such stage{nearest(name, known)}")
        if name != OTHERS and not tasks_of_stage(name):
            host = host_of(name)
            raise BadInputError(
                f"--placement: {path}: groups.{name}: it runs in the task of `{host}`; place that: groups.{host}"
            )
        if (placement.groups[name].nodes or 1) > 1 and name not in ON_NODES:
            raise BadInputError(
                f"--placement: {path}: groups.{name}.nodes: only {' and '.join(ON_NODES)} train on several"
            )
    return placement


def place(spec: dict[str, Any], platform: dict[str, Any], placement: Placement) -> None:
    """Apply a placement to a package, in place."""
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in spec["deploymentSpec"]["executors"].items():
        stage = str(executor["container"]["command"][-1])
        group = placement.group(stage)
        _place_container(executor["container"], stage, group)
        if (group.nodes or 1) > 1:
            _place_on_nodes(executor["container"], placement, group)
        _place_pod(kubernetes.setdefault(label, {}), group)
        _place_volumes(executor["container"], kubernetes[label], group)
        _share(kubernetes[label], placement)
        _describe_pod(kubernetes[label], placement, group)
        _place_environment(executor["container"], kubernetes[label], {**placement.env, **group.env})
        if placement.ca_bundle is not None:
            _trust(executor["container"], kubernetes[label], placement.ca_bundle)
    _place_tasks(spec, placement)


def _place_container(container: dict[str, Any], stage: str, group: Group) -> None:
    resources = container.setdefault("resources", {})
    for kind, value in (("Cpu", group.cpu), ("Memory", group.memory)):
        if value is not None:
            resources[f"resource{kind}Request"] = resources[f"resource{kind}Limit"] = value
    accelerator = dict(resources.get("accelerator", {}))
    if group.accelerator is not None:
        accelerator["resourceType"] = accelerator["type"] = group.accelerator
    if group.count is not None and stage != "vote":
        accelerator |= {"resourceCount": str(group.count), "count": str(group.count)}
    resources.pop("accelerator", None)
    if accelerator.get("resourceCount", "0") != "0":
        accelerator.setdefault("resourceType", "nvidia.com/gpu")
        resources["accelerator"] = accelerator
    if not resources:
        del container["resources"]


def _place_on_nodes(container: dict[str, Any], placement: Placement, group: Group) -> None:
    """Let the task's pod start and follow a TrainJob, whose nodes take the resources of the task."""
    resources = container.pop("resources", {})
    held = resources.get("accelerator", {})
    count = int(held.get("resourceCount", 0)) if group.count is not None else (group.processes or 1) if held else 0
    wanted = SeveralNodes(
        nodes=group.nodes or 1,
        processes=group.processes or count or 1,
        runtime=group.runtime or RUNTIME,
        image=group.image,
        accelerator=held.get("resourceType", "nvidia.com/gpu"),
        count=count,
        cpu=group.cpu,
        memory=group.memory,
        timeout_seconds=group.timeout_seconds,
        annotations={**placement.annotations, **group.annotations},
    )
    if group.cpu is not None or group.memory is not None:  # a quota on limits requires them of every pod
        container["resources"] = {f"resource{what}": value for what, value in _FOLLOWER.items()}
    _set_variable(container, NODES_VARIABLE, wanted.model_dump_json(exclude_defaults=True))


def _place_pod(pod: dict[str, Any], group: Group) -> None:
    labels = {"kueue.x-k8s.io/queue-name": group.queue, "kueue.x-k8s.io/priority-class": group.priority}
    given = {key: value for key, value in labels.items() if value is not None}
    if given:
        pod.setdefault("podMetadata", {}).setdefault("labels", {}).update(given)
    if group.node_selector is not None:
        pod["nodeSelector"] = {"labels": dict(group.node_selector)}
    if group.tolerations is not None:
        pod["tolerations"] = [one.model_dump(exclude_defaults=False) for one in group.tolerations]
    if group.timeout_seconds is not None:
        pod["activeDeadlineSeconds"] = str(group.timeout_seconds)


def _place_volumes(container: dict[str, Any], pod: dict[str, Any], group: Group) -> None:
    if group.shared_memory is not None:
        mounts = [one for one in pod.get("emptyDirMounts", []) if one["volumeName"] != "shm"]
        shm = {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": group.shared_memory, "volumeName": "shm"}  # noqa: S108
        pod["emptyDirMounts"] = [*mounts, shm]
    if group.models is None:
        return
    _set_variable(container, "HF_HOME", MODELS)
    if group.models.claim is not None:
        named = {"pvcNameParameter": {"runtimeValue": {"constant": group.models.claim}}}
        pod["pvcMount"] = [{"constant": group.models.claim, "mountPath": MODELS, **named}]
        return
    volume = {"volumeName": "models", "mountPath": MODELS}
    if group.models.storage_class is None:
        # Any user may write there. A new volume of a class belongs to root, and KFP gives pods no fsGroup (2.17.0,
        # backend/src/v2/compiler/argocompiler/argo.go, the Workflow's SecurityContext, and security_context.go).
        pod.setdefault("emptyDirMounts", []).append({**volume, "sizeLimit": group.models.size})
        return
    kind = {"storageClassName": group.models.storage_class, "accessModes": ["ReadWriteOnce"], "size": group.models.size}
    pod["genericEphemeralVolume"] = [{**volume, **kind}]


def _describe_pod(pod: dict[str, Any], placement: Placement, group: Group) -> None:
    """Add labels and annotations; the pipeline's own stay, because others select by them."""
    about = pod.setdefault("podMetadata", {})
    for what, given in (
        ("labels", {**placement.labels, **group.labels}),
        ("annotations", {**placement.annotations, **group.annotations}),
    ):
        if given:
            about[what] = {**given, **about.get(what, {})}


def _place_environment(container: dict[str, Any], pod: dict[str, Any], env: Mapping[str, Any]) -> None:
    named = {name.upper() for name in env}
    if named & {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} and "NO_PROXY" not in named:
        env = {**env, "NO_PROXY": _DIRECT}
    for name, value in env.items():
        if isinstance(value, str):
            _set_variable(container, name, value)
            continue
        at = value.secret if isinstance(value, FromSecret) else value.config_map
        kind = "secret" if isinstance(value, FromSecret) else "configMap"
        pod.setdefault(f"{kind}AsEnv", []).append(
            {
                f"{kind}Name": at,
                "keyToEnv": [{f"{kind}Key": value.key, "envVar": name}],
                "optional": value.optional,
                f"{kind}NameParameter": {"runtimeValue": {"constant": at}},
            }
        )


def _trust(container: dict[str, Any], pod: dict[str, Any], bundle: CaBundle) -> None:
    """Mount the authorities, and name them in lorapar's variable and in those of other libraries."""
    kind, name = ("configMap", bundle.config_map) if bundle.secret is None else ("secret", bundle.secret)
    name_parameter = {f"{kind}NameParameter": {"runtimeValue": {"constant": name}}}
    pod.setdefault(f"{kind}AsVolume", []).append(
        {f"{kind}Name": name, "mountPath": AUTHORITIES, "optional": False, **name_parameter}
    )
    for variable in (OWN_VARIABLE, S3_VARIABLE, *SHARED_VARIABLES):
        _set_variable(container, variable, f"{AUTHORITIES}/{bundle.entry}")


def _set_variable(container: dict[str, Any], name: str, value: str) -> None:
    """Set one value for each name: Kubernetes accepts two, but tools that apply manifests do not."""
    kept = [one for one in container.get("env", []) if one["name"] != name]
    container["env"] = [*kept, {"name": name, "value": value}]


def _share(pod: dict[str, Any], placement: Placement) -> None:
    """Set what every task shares."""
    if placement.image_pull_policy is not None:
        pod["imagePullPolicy"] = placement.image_pull_policy
    if placement.image_pull_secrets:
        pod["imagePullSecret"] = [
            {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}}
            for name in placement.image_pull_secrets
        ]
    if placement.credentials_secret is not None:
        for secret in pod.get("secretAsVolume", []):
            if secret["mountPath"] == AUTHORITIES:
                continue
            secret["secretName"] = placement.credentials_secret
            secret["secretNameParameter"] = {"runtimeValue": {"constant": placement.credentials_secret}}
    if placement.user is not None:
        pod["securityContext"] |= {"runAsUser": str(placement.user), "runAsGroup": str(placement.user)}
    elif "user" in placement.model_fields_set:
        for key in ("runAsUser", "runAsGroup"):
            pod["securityContext"].pop(key, None)


def _place_tasks(spec: dict[str, Any], placement: Placement) -> None:
    """Set retries, the bound on loops, and what `plan` gets about vote tasks."""
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "parameterIterator" in task and placement.vote_parallelism is not None:
                task["iteratorPolicy"] = {"parallelismLimit": placement.vote_parallelism}
            label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            if label is None:
                continue
            stage = str(spec["deploymentSpec"]["executors"][label]["container"]["command"][-1])
            group = placement.group(stage)
            if group.retries is not None:
                policy = task.get("retryPolicy", {"backoffDuration": "30s", "backoffFactor": 2.0})
                task["retryPolicy"] = {**policy, "maxRetryCount": group.retries}
            if stage == "plan" and placement.group("vote").count is not None:
                count = str(placement.group("vote").count)
                task["inputs"]["parameters"]["vote_accelerators"] = {"runtimeValue": {"constant": count}}
