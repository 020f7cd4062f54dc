"""The names of a task's inputs and outputs in Kubeflow, derived from the graph.

Tasks pass digests to each other, as parameters. In Kubeflow's cache key an artifact is the number of a row in its
database, so a task that took an artifact from a task that always runs would always run too. Artifacts are outputs only,
for people who look at a run. A component's inputs and outputs share one namespace, and an input from several nodes
needs a name for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorapar.kubeflow.tasks import LOOPED_NODE, PipelineTask, node_named, task_of
from lorapar.stages.contract import stage_spec
from lorapar.stages.graph import GRAPH, Edge, Node


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
