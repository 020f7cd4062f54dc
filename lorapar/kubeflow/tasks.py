"""The tasks of the pipeline: each runs one node of the graph, and short nodes before or after it.

A Kubeflow task is two pods one after the other, and every pod waits for Argo's next look at the run. So bookkeeping
that takes seconds runs in the task before or after it. Each node keeps its own settings, record, metrics and errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lorapar.kubeflow.images import IMAGES, default_reference, image_of
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import GRAPH, Node


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
"""`off` where a run makes everything again (`--no-cache`) and takes no finished stage from the store."""
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
