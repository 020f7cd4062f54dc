"""The tasks of the pipeline: the nodes that each runs, its image, its accelerators, and names of inputs and outputs.

A Kubeflow task is two pods one after the other, and every pod waits for Argo's next look at the run. So bookkeeping
that takes seconds runs in the task before or after it. Each node keeps its own settings, record, metrics and errors.

Tasks pass digests to each other, as parameters. In Kubeflow's cache key an artifact is the number of a row in its
database, so a task that took an artifact from a task that always runs would always run too. Artifacts are outputs only,
for people who look at a run. A component's inputs and outputs share one namespace, and an input from several nodes
needs a name for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar import __version__
from lorapar.errors import BadInputError, nearest
from lorapar.stages.contract import is_cached, stage_spec
from lorapar.stages.graph import GRAPH, Edge, Node

IMAGES = ("client", "trainer", "vllm")
REPOSITORY = "lorapar"
"""Images are named REPOSITORY/NAME:VERSION; compiling replaces the registry or the tag where asked."""
# On one machine these run beside training; in a cluster they have an image with vLLM, which trainer's pins exclude.
_IN_CLUSTERS = {"vote": "vllm", "evaluate": "vllm"}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_REFERENCE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?")


def image_of(stage: str) -> str:
    """The name of a stage's image in a cluster: client, trainer or vllm."""
    return _IN_CLUSTERS.get(stage, stage_spec(stage).image)


def default_reference(image: str) -> str:
    """The tag the shipped pipeline names."""
    return f"{REPOSITORY}/{image}:{__version__}"


def is_pinned(reference: str) -> bool:
    """Whether a reference names a digest: a tag can move, and KFP's cache would not notice."""
    return _DIGEST.search(reference) is not None


def references(registry: str | None, given: Sequence[str]) -> dict[str, str]:
    """The replacement of each default reference, from `--registry` and `--image NAME=REFERENCE`."""
    return {default_reference(image): default_reference(image) for image in IMAGES} | named(registry, given)


def named(registry: str | None, given: Sequence[str]) -> dict[str, str]:
    """Like `references`, but only the images that the options name; raises BadInputError for an unknown image."""
    if registry and (not _REFERENCE.fullmatch(f"{registry.rstrip('/')}/image:tag") or "//" in registry):
        raise BadInputError(
            f"--registry {registry}: write it as HOST[:PORT]/PATH, without https://, such as registry.example/lorapar"
        )
    found = {}
    if registry:
        found = {default_reference(image): f"{registry.rstrip('/')}/{image}:{__version__}" for image in IMAGES}
    for text in given:
        name, equals, reference = text.partition("=")
        if name not in IMAGES:
            raise BadInputError(f"--image {text}: no image is called '{name}'{nearest(name, list(IMAGES))}")
        if not equals or not _REFERENCE.fullmatch(reference):
            raise BadInputError(f"--image {text}: write it as {name}=REGISTRY/{name}@sha256:DIGEST or with a tag")
        found[default_reference(name)] = reference
    return found


class Takes(BaseModel):
    """Accelerators of a task's own pod, or of each node where a TrainJob trains on several."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    count: int = Field(0, ge=0)
    """Accelerators of the pod, or of each node."""
    accelerator: str = "nvidia.com/gpu"
    nodes: int = Field(1, ge=1)
    processes: int = Field(1, ge=1)
    """Processes on each node."""

    def text(self) -> str:
        """For people: `1 nvidia.com/gpu`, `2 nodes x 4 processes, 4 nvidia.com/gpu each`; empty where it takes none."""
        held = f"{self.count} {self.accelerator}" if self.count else ""
        if self.nodes == 1:
            return held
        return f"{self.nodes} nodes x {self.processes} processes{f', {held} each' if held else ''}"

    def dump(self) -> dict[str, Any]:
        """The JSON form that `read_takes` reads."""
        return self.model_dump(exclude_defaults=True)


def read_takes(parameter: object) -> dict[str, Takes]:
    """What tasks take, by task, from the parameter `accelerators` of the task `plan`; raises BadInputError."""
    given = parameter if isinstance(parameter, Mapping) else {"": parameter}
    try:
        return {str(task): Takes.model_validate(value) for task, value in given.items()}
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "a value"
        raise BadInputError(
            f"accelerators: {where}: {problem['msg']}; the package says it: the package and the image of `plan` must "
            "be of the same version of lorapar"
        ) from None


@dataclass(frozen=True)
class PipelineTask:
    """A task of the pipeline. Its name is that of its main node, not of its bookkeeping."""

    name: str
    before: tuple[str, ...] = ()
    """Nodes that run in this task first."""
    after: tuple[str, ...] = ()
    """Nodes that run in it last."""

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes, in the order they run."""
        return tuple(node_named(name) for name in (*self.before, self.name, *self.after))

    @property
    def stage(self) -> str:
        """The stage that names its command, its label and its placement."""
        return node_named(self.name).stage

    @property
    def image(self) -> str:
        """The image that all its nodes need: the trainer's and vLLM's both contain the client's."""
        return max((image_of(node.stage) for node in self.nodes), key=IMAGES.index)

    @property
    def reference(self) -> str:
        """That image as the shipped pipeline names it."""
        return default_reference(self.image)

    @property
    def cached(self) -> bool:
        """Whether Kubeflow may take it from its cache: not if one of its nodes looks at something outside."""
        return all(is_cached(node.stage) for node in self.nodes)


TASKS: tuple[PipelineTask, ...] = (
    PipelineTask("plan", after=("prepare",)),
    PipelineTask("vote-first"),
    PipelineTask("vote-rest", before=("tally-first",), after=("tally",)),
    PipelineTask("init"),
    PipelineTask("score-system1"),
    PipelineTask("score-system2"),
    PipelineTask("partition"),
    PipelineTask("sft"),
    PipelineTask("rl"),
    PipelineTask("publish"),
    PipelineTask("evaluate", after=("execute",)),
    PipelineTask("gate", after=("promote",)),
    PipelineTask("report"),
)
REUSE_VARIABLE = "LORAPAR_REUSE"
"""`off` where a run makes everything again (`--no-cache`): it takes no finished stage from the store, nor answers."""
LOOPED_NODE = "vote-first"
"""Its task is a loop in the pipeline: each item asks some of the round's teachers."""


def node_named(name: str) -> Node:
    """A node of the graph."""
    return next(node for node in GRAPH if node.name == name)


def task_named(name: str) -> PipelineTask:
    """A task of the pipeline."""
    return next(task for task in TASKS if task.name == name)


def task_of(node: str) -> PipelineTask:
    """The task that a node runs in."""
    return next(task for task in TASKS if any(one.name == node for one in task.nodes))


def tasks_of_stage(stage: str) -> tuple[PipelineTask, ...]:
    """The tasks whose command names a stage: two for `vote` and `score`, none for a stage in another one's task."""
    return tuple(task for task in TASKS if task.stage == stage)


def host_of(stage: str) -> str:
    """The stage whose task runs this stage, where it has no task of its own."""
    return next(task.stage for task in TASKS if any(node.stage == stage for node in task.nodes))


@dataclass(frozen=True)
class Port:
    """One input of a component."""

    name: str
    input: str
    """The input of the stage that it feeds."""
    several: bool
    """Whether it is a list, collected from the tasks of a loop."""

    @property
    def digest(self) -> str:
        """The parameter with the input's digest: a text, or a list of texts."""
        return f"{self.name}_digests" if self.several else f"{self.name}_digest"


def node_ports(node: Node) -> list[tuple[Port, Edge]]:
    """The ports of one node, each with its incoming edge."""
    spec = stage_spec(node.stage)
    found = []
    for name in (*spec.inputs, *spec.many):
        for edge in node.inputs.get(name, ()):
            found.append((Port(_port_name(name, edge, spec.many), name, edge.node == LOOPED_NODE), edge))
    return found


def input_ports(task: PipelineTask) -> dict[str, tuple[Port, Edge]]:
    """What a task takes from other tasks, by parameter; edges between its own nodes are left out."""
    inside = {node.name for node in task.nodes}
    found: dict[str, tuple[Port, Edge]] = {}
    for node in task.nodes:
        for port, edge in node_ports(node):
            if edge.node not in inside:
                found.setdefault(port.digest, (port, edge))
    return found


def output_edges(task: PipelineTask) -> tuple[Edge, ...]:
    """The edges to other tasks, without the report: it finds its inputs in the store."""
    inside = {node.name for node in task.nodes}
    others = [node for node in GRAPH if node.name not in inside and node.stage != "report"]
    taken = {edge for node in others for edges in node.inputs.values() for edge in edges if edge.node in inside}
    outputs = [Edge(node.name, output) for node in task.nodes for output in stage_spec(node.stage).outputs]
    return tuple(edge for edge in outputs if edge in taken)


def output_port(task: PipelineTask, output: str) -> str:
    """The name of an output, prefixed by the task's stage where an input has the same name."""
    taken = {port.name for port, _ in input_ports(task).values()}
    return f"{task.stage}_{output}" if output in taken else output


def digest_parameter(edge: Edge) -> str:
    """The output parameter with an output's digest, of the task that runs the node."""
    return f"{output_port(task_of(edge.node), edge.output)}_digest"


def _port_name(name: str, edge: Edge, many: tuple[str, ...]) -> str:
    """`votes` of the node `vote-first` arrives as `votes_first`."""
    if name not in many:
        return name
    suffix = edge.node.removeprefix(node_named(edge.node).stage).lstrip("-")
    return f"{name}_{suffix}" if suffix else name
