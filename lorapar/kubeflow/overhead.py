"""What Kubeflow adds to a run of a package: pods one after the other, and bytes in Argo's Workflow.

A model of Kubeflow Pipelines 2.17.0 and Argo 4.0.5; the functions name their sources, docs/kubeflow.md has a summary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TASK_PODS = 2
"""Driver, then executor."""
GROUP_PODS = 1
"""One driver: of the root, an exit handler, a condition, a nested pipeline, or an item of a loop."""
LOOP_PODS = GROUP_PODS + 1
"""A loop has its own driver in addition to the one of each item."""
REQUEUE_SECONDS = 10
"""Argo's default for DEFAULT_REQUEUE_TIME: it looks at a run at most this often, and starts pods only then."""
PATCH_NODES = 6
"""Node statuses that hold a task's pod-spec patch; seen in a run's Workflow."""
INPUT_NODES = 2
"""Node statuses that hold a driver's input."""
TASK_NODES = 5
"""Node statuses of a task: driver and its only try, the executor's group, the executor and its only try."""
GROUP_NODES = 3
"""Node statuses of a group: its driver, the driver's try, and the group."""
NODE_BYTES = 400
"""What else a node status takes: names, times, resources. This value and the next are fitted to a tiny run of 19 tasks,
each with the whole settings, whose Workflow had 1.5 MB, of them 150 kB of spec."""
TEMPLATE_BYTES = 78_000
"""The templates that KFP's compiler writes for every pipeline."""
_ID = "0" * 36
_DIGEST = "0" * 64


def longest_path_pods(spec: Mapping[str, Any]) -> int:
    """The least number of pods that start one after the other; the exit handler's come last.

    backend/src/v2/compiler/argocompiler/dag.go: `task`, `iteratorTask` and `iterationItemTask`.
    """
    return GROUP_PODS + _longest(spec, spec["root"])


def waiting_seconds(pods: int, requeue_seconds: float = REQUEUE_SECONDS) -> float:
    """About the shortest time of a run, however short its work: each pod waits for Argo's next look."""
    return pods * requeue_seconds


def workflow_bytes(
    spec: Mapping[str, Any], platform: Mapping[str, Any], lanes: int, config: str = ""
) -> dict[str, int]:
    """Bytes of the Workflow at the end of a run whose loop has `lanes` items, by what they hold.

    `config` is the parameter of that name, which the root's driver and `plan` get. Texts inside it are JSON inside
    JSON, so every quotation mark takes two bytes.
    """
    model = _Model(spec, platform, lanes, config)
    found = {"patches": 0, "inputs": 0, "nodes": GROUP_NODES * NODE_BYTES}
    found["inputs"] += INPUT_NODES * (_escaped(spec["root"]) + _escaped(config))
    for task, component, times in model.tasks():
        if "dag" in component:
            drivers = times + times // lanes if "parameterIterator" in task else times
            found["inputs"] += drivers * INPUT_NODES * (_escaped(component) + _escaped(task))
            found["nodes"] += drivers * GROUP_NODES * NODE_BYTES
            continue
        label = component["executorLabel"]
        given = (component, task, model.containers[label]["container"], model.pods.get(label, {}))
        found["patches"] += times * PATCH_NODES * _escaped(model.patch(task, component))
        found["inputs"] += times * INPUT_NODES * sum(map(_escaped, given))
        found["nodes"] += times * TASK_NODES * NODE_BYTES
    written = (*spec["components"].values(), *model.containers.values(), *model.pods.values())
    found["spec"] = TEMPLATE_BYTES + _escaped(config) + sum(map(_escaped, written))
    return found


def _longest(spec: Mapping[str, Any], component: Mapping[str, Any]) -> int:
    """Pods on the longest path through a group, without its own driver."""
    tasks = component["dag"]["tasks"]
    ends: dict[str, int] = {}

    def end(name: str) -> int:
        if name not in ends:
            task = tasks[name]
            before = max((end(other) for other in _upstream(task)), default=0)
            ends[name] = before + _pods(spec, task)
        return ends[name]

    return max(end(name) for name in tasks)


def _pods(spec: Mapping[str, Any], task: Mapping[str, Any]) -> int:
    component = spec["components"][task["componentRef"]["name"]]
    if "dag" not in component:
        return TASK_PODS
    own = LOOP_PODS if "parameterIterator" in task else GROUP_PODS
    return own + _longest(spec, component)


def _upstream(task: Mapping[str, Any]) -> set[str]:
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    outputs = [source.get("taskOutputParameter") or source.get("taskOutputArtifact") for source in sources]
    return {*task.get("dependentTasks", ()), *(one["producerTask"] for one in outputs if one)}


@dataclass(frozen=True)
class _Model:
    """A package, and how many items its loop has."""

    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    lanes: int
    config: str

    @cached_property
    def containers(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec["deploymentSpec"]["executors"]
        return found

    @cached_property
    def pods(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        return found

    def tasks(self) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], int]]:
        """Every task and group with its component, and how often it occurs."""
        waiting = [(self.spec["root"], 1)]
        while waiting:
            outer, times = waiting.pop()
            for task in outer["dag"]["tasks"].values():
                component = self.spec["components"][task["componentRef"]["name"]]
                inside = times * self.lanes if "parameterIterator" in task else times
                yield task, component, inside
                if "dag" in component:
                    waiting.append((component, inside))

    def patch(self, task: Mapping[str, Any], component: Mapping[str, Any]) -> dict[str, Any]:
        """The pod-spec patch of a task: backend/src/v2/driver/driver.go, initPodSpecPatch, and k8s.go."""
        container, pod = self.containers[component["executorLabel"]]["container"], {}
        executor = self.pods.get(component["executorLabel"], {})
        command = [*_LAUNCHER, "--executor_input", json.dumps(self._executor_input(task, component), separators=_TIGHT)]
        command += ["--component_spec", json.dumps(component, separators=_TIGHT), "--"]
        main = {"name": "main", "image": container["image"], "command": command}
        main |= {"args": [*container["command"], *container["args"]], "resources": container.get("resources", {})}
        main["env"] = [*container.get("env", ()), *_variables(executor)]
        main["securityContext"] = executor.get("securityContext", {})
        volumes: list[tuple[str, dict[str, Any], str]]
        volumes = [
            (one["volumeName"], {"emptyDir": {}}, one["mountPath"]) for one in executor.get("emptyDirMounts", ())
        ]
        for one in executor.get("secretAsVolume", ()):
            secret = {"secretName": one["secretName"], "optional": True}
            volumes.append((one["secretName"], {"secret": secret}, one["mountPath"]))
        main["volumeMounts"] = [{"name": name, "mountPath": path} for name, _, path in volumes]
        pod["volumes"] = [{"name": name, **source} for name, source, _ in volumes]
        pod["tolerations"] = executor.get("tolerations", [])
        return {"containers": [main], **pod}

    def _executor_input(self, task: Mapping[str, Any], component: Mapping[str, Any]) -> dict[str, Any]:
        inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
        values = {name: self._value(name) for name in inputs.get("parameters", {})}
        logs = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}}}
        made = {**outputs.get("artifacts", {}), **logs}
        files = {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in outputs.get("parameters", {})}  # noqa: S108
        taken = {
            name: [self._artifact(task, name, kind, _METADATA)] * (self.lanes if kind.get("isArtifactList") else 1)
            for name, kind in inputs.get("artifacts", {}).items()
        }
        return {
            "inputs": {
                "parameterValues": values,
                "artifacts": {name: {"artifacts": one} for name, one in taken.items()},
            },
            "outputs": {
                "artifacts": {
                    name: {"artifacts": [self._artifact(task, name, kind, {})]} for name, kind in made.items()
                },
                "parameters": files,
                "outputFile": "/tmp/kfp_outputs/output_metadata.json",  # noqa: S108
            },
        }

    def _value(self, name: str) -> Any:
        if name == "config":
            return self.config
        if name.endswith("_digests"):
            return [_DIGEST] * self.lanes
        return _DIGEST if name.endswith("_digest") or name == "settings" else "x" * 30

    def _artifact(
        self, task: Mapping[str, Any], name: str, kind: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        place = f"s3://mlpipeline/v2/artifacts/lorapar/{_ID}/{task['taskInfo']['name']}/{_ID}/{name}"
        return {"type": kind["artifactType"], "uri": place, "metadata": dict(metadata)}


def _variables(executor: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for secret in executor.get("secretAsEnv", ()):
        for one in secret["keyToEnv"]:
            source = {"name": secret["secretName"], "key": one["secretKey"], "optional": True}
            yield {"name": one["envVar"], "valueFrom": {"secretKeyRef": source}}
    for one in executor.get("fieldPathAsEnv", ()):
        yield {"name": one["name"], "valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}}


def _escaped(value: Any) -> int:
    """Bytes of a value as JSON text inside JSON."""
    return len(json.dumps(json.dumps(value, separators=_TIGHT)).encode())


_TIGHT = (",", ":")
_METADATA = {
    "digest": _DIGEST,
    "kind": "x" * 16,
    "files": 3,
    "size_bytes": 10**6,
    "lorapar_version": "0.0.0",
    "record": _DIGEST,
}
_LAUNCHER = (
    *("/kfp-launcher/launch", "--executor_type", "container", "--pipeline_name", "lorapar", "--run_id", _ID),
    *("--execution_id", "1000", "--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local", "--ml_pipeline_server_port", "8887"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local", "--mlmd_server_port", "8080"),
    *("--publish_logs", "true", "--ml_pipeline_tls_enabled=false", "--metadata_tls_enabled=false"),
    *("--ca_cert_path", "", "--cache_disabled=false", "--log_level", "1"),
)
