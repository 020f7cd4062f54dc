"""The compiled pipeline as it goes to Kubeflow: the shipped one, with images and placement filled in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lorapar import __version__
from lorapar.errors import BadInputError
from lorapar.kubeflow.placement import Placement, place
from lorapar.kubeflow.tasks import REUSE_VARIABLE, Takes, is_pinned, task_named
from lorapar.kubeflow.trainjob import NODES_VARIABLE, SeveralNodes
from lorapar.stages.graph import node_names

PIPELINE_NAME = "lorapar"
OWN_PIPELINE = "lorapar-own"
"""The pipeline of versions that are for one run: with single images replaced, or without the cache. They do not affect
other people's runs, nor Kubeflow's form, which offers the newest version of a pipeline."""
MANIFEST_VERSION = "pipelines.kubeflow.org/v2beta1"
RETRIED_FOR_SECONDS = 30 * 24 * 3600
"""How long after its first start a task may be tried again. Argo makes the rest of this time the deadline of the next
attempt; KFP's backend writes 0 (never again) where the package says nothing."""


@dataclass(frozen=True)
class PlannedTask:
    """A task of the package that runs nodes of the graph."""

    key: str
    """Its name in Argo and in the task details of Kubeflow's API."""
    nodes: tuple[str, ...]
    image: str
    accelerators: str
    """Such as `1 nvidia.com/gpu`; empty where it takes none, `?` where `plan` decides the number."""

    @property
    def name(self) -> str:
        """The node it is named after, among those it runs."""
        return self.key if self.key in self.nodes else self.nodes[0]


class Package:
    """The two documents of a pipeline package."""

    def __init__(self, spec: dict[str, Any], platform: dict[str, Any], pipeline_name: str = PIPELINE_NAME) -> None:
        self.spec = spec
        self.platform = platform
        self.pipeline_name = pipeline_name
        """The pipeline in Kubeflow whose version it becomes."""
        self.is_to_be_newest = False
        """Whether to upload an existing version again, because a newer one has other images."""

    @property
    def images(self) -> list[str]:
        """The images it names."""
        return sorted({executor["container"]["image"] for executor in _executors(self.spec)})

    @property
    def unpinned(self) -> list[str]:
        """Images named by a tag, which can move: KFP's cache would not notice."""
        return [image for image in self.images if not is_pinned(image)]

    @property
    def asked(self) -> dict[str, Takes]:
        """What each task takes, as it is passed to `plan`; tasks that take nothing are left out."""
        return _asked(self.spec)

    def tasks(self) -> tuple[PlannedTask, ...]:
        """The tasks that run nodes of the graph, in the order they run."""
        found = []
        for key, task, label in _container_tasks(self.spec):
            container = self.spec["deploymentSpec"]["executors"][label]["container"]
            nodes = tuple(node.name for node in task_named(task["taskInfo"]["name"]).nodes)
            found.append(PlannedTask(key, nodes, container["image"], _accelerators(container)))
        return tuple(sorted(found, key=lambda task: node_names().index(task.nodes[0])))

    @property
    def version_name(self) -> str:
        """Name of the pipeline's version in Kubeflow: equal content, equal name."""
        return f"{__version__}-{hashlib.sha256(self.text().encode()).hexdigest()[:12]}"

    def text(self) -> str:
        """The package as Kubeflow takes it."""
        return _dump([self.spec, self.platform])

    def manifest_text(self, namespace: str | None) -> str:
        """The package as Kubernetes resources, for GitOps: a Pipeline and this version of it."""
        pipeline = {"name": PIPELINE_NAME} | ({"namespace": namespace} if namespace else {})
        about = {"displayName": PIPELINE_NAME}
        name = f"{PIPELINE_NAME}-{self.version_name.replace('.', '-')}"
        version = {"name": name} | ({"namespace": namespace} if namespace else {})
        return _dump(
            [
                {
                    "apiVersion": MANIFEST_VERSION,
                    "kind": "Pipeline",
                    "metadata": pipeline,
                    "spec": about,
                },
                {
                    "apiVersion": MANIFEST_VERSION,
                    "kind": "PipelineVersion",
                    "metadata": version,
                    "spec": {
                        "displayName": self.version_name,
                        "pipelineName": PIPELINE_NAME,
                        "pipelineSpec": self.spec,
                        "platformSpec": self.platform,
                    },
                },
            ]
        )


def build_package(
    images: Mapping[str, str],
    placement: Placement | None,
    *,
    require_digests: bool = False,
    cached: bool = True,
    pipeline_name: str = PIPELINE_NAME,
) -> Package:
    """The shipped package with images and placement; raises BadInputError for a tag where digests are required."""
    spec, platform = copy.deepcopy(_shipped())
    for executor in _executors(spec):
        container = executor["container"]
        container["image"] = images.get(container["image"], container["image"])
    if placement is not None:
        place(spec, platform, placement)
    _keep_retrying(spec, platform)
    set_accelerators(spec)
    if not cached:
        _switch_caching_off(spec)
    package = Package(spec, platform, pipeline_name)
    if require_digests and package.unpinned:
        raise BadInputError(
            f"--require-digests: {', '.join(package.unpinned)} is not pinned; give --image NAME=...@sha256:DIGEST"
        )
    _set_images(package)
    return package


def images_of(uploaded: Any) -> dict[str, str]:
    """The images that an uploaded package has in place of the shipped ones, by the reference they replace.

    Empty where one of them is still a shipped tag: such a package was not made for everybody. `uploaded` is a version
    from Kubeflow's API; with a platform document its spec lies one level deeper.
    """
    value = uploaded if isinstance(uploaded, dict) else {}
    spec = value.get("pipeline_spec") or value
    there = (spec.get("deploymentSpec") or {}).get("executors") or {}
    found: dict[str, str] = {}
    for label, executor in _shipped()[0]["deploymentSpec"]["executors"].items():
        shipped = str(executor["container"]["image"])
        image = ((there.get(label) or {}).get("container") or {}).get("image")
        if not image or image == shipped:
            return {}
        found[shipped] = str(image)
    return found


def _set_images(package: Package) -> None:
    """Put pinned images into each task's environment, for records; KFP's cache does not look at it."""
    pinned = [image for image in package.images if is_pinned(image)]
    if not pinned:
        return
    pairs = ",".join(f"{image.partition('@')[0].rpartition('/')[2].partition(':')[0]}={image}" for image in pinned)
    for executor in _executors(package.spec):
        executor["container"].setdefault("env", []).append({"name": "LORAPAR_IMAGES", "value": pairs})


def _on_nodes(container: dict[str, Any]) -> Takes | None:
    """What the nodes of the task's TrainJob take; None where it starts none."""
    text = next((one["value"] for one in container.get("env", []) if one["name"] == NODES_VARIABLE), None)
    return SeveralNodes.model_validate_json(text).takes if text else None


def _in_its_pod(container: dict[str, Any]) -> Takes | None:
    """What a task's own pod takes; None where it takes nothing or `plan` decides."""
    asked = container.get("resources", {}).get("accelerator") or {}
    count = str(asked.get("resourceCount", ""))
    return Takes(count=int(count), accelerator=asked["resourceType"]) if count.isdigit() and int(count) else None


def _accelerators(container: dict[str, Any]) -> str:
    asked = container.get("resources", {}).get("accelerator")
    if not asked:
        return ""
    takes = _in_its_pod(container)
    return takes.text() if takes is not None else f"? {asked.get('resourceType', '')}"


def _switch_caching_off(spec: dict[str, Any]) -> None:
    """Keep Kubeflow and the task itself from reusing what an earlier run made."""
    for _, task, executor in _container_tasks(spec):
        task["cachingOptions"] = {}
        env = spec["deploymentSpec"]["executors"][executor]["container"].setdefault("env", [])
        if not any(one["name"] == REUSE_VARIABLE for one in env):
            env.append({"name": REUSE_VARIABLE, "value": "off"})


def set_accelerators(spec: dict[str, Any]) -> None:
    """Pass `plan` what each task takes, for its page and number formats; it works out vote tasks itself."""
    for name, task, _ in _container_tasks(spec):
        if name == "plan":
            asked_for = {one: takes.dump() for one, takes in _asked(spec).items()}
            task["inputs"]["parameters"]["accelerators"] = {"runtimeValue": {"constant": asked_for}}


def _asked(spec: dict[str, Any]) -> dict[str, Takes]:
    asked = {}
    for name, _, label in _container_tasks(spec):
        container = spec["deploymentSpec"]["executors"][label]["container"]
        takes = _on_nodes(container) or _in_its_pod(container)
        if takes is not None:
            asked[name] = takes
    return asked


def _keep_retrying(spec: dict[str, Any], platform: dict[str, Any]) -> None:
    """Give every attempt of a task its whole time."""
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for _, task, executor in _container_tasks(spec):
        policy = task.get("retryPolicy")
        if policy is not None:
            needed = int(pods.get(executor, {}).get("activeDeadlineSeconds", 0)) * (policy["maxRetryCount"] + 1)
            policy["backoffMaxDuration"] = f"{max(RETRIED_FOR_SECONDS, 2 * needed)}s"


def _container_tasks(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every task that is a lorapar pod: its name, its spec, and the label of its executor."""
    for component in [spec["root"], *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            if label is not None:
                yield name, task, label


@cache
def _shipped() -> tuple[dict[str, Any], dict[str, Any]]:
    text = resources.files("lorapar.kubeflow").joinpath("pipeline.yaml").read_text(encoding="utf-8")
    spec, platform = yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return spec, platform


def _executors(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return list(spec["deploymentSpec"]["executors"].values())


def _dump(documents: list[Any]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump_all(documents, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
