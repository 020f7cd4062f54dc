"""How a stage's inputs and outputs are called in Kubeflow, worked out from the graph.

A component's inputs and outputs share one space of names, and an input that takes artifacts of several nodes needs one
name for each of them. Digests travel as parameters beside the artifacts: KFP's cache key holds the values of
parameters, but of artifacts only their names.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorapar.stages.contract import stage_spec
from lorapar.stages.graph import GRAPH, Edge, Node

LOOPED_STAGE = "vote"
"""Its nodes are loops in the pipeline: each task asks some of the round's teachers."""


@dataclass(frozen=True)
class Port:
    """One input of a component."""

    name: str
    input: str
    """The input of the stage that it feeds."""
    several: bool
    """A list, collected from the tasks of a loop."""

    @property
    def digest(self) -> str:
        """The parameter with the digest of what comes in: a text, or a list of them."""
        return f"{self.name}_digests" if self.several else f"{self.name}_digest"


def input_ports(stage: str) -> tuple[Port, ...]:
    """The inputs of a stage's component, in the order of the stage's own."""
    ports: dict[str, Port] = {}
    for node in GRAPH:
        if node.stage == stage:
            for port, _ in node_ports(node):
                ports.setdefault(port.name, port)
    return tuple(ports.values())


def node_ports(node: Node) -> list[tuple[Port, Edge]]:
    """The ports of one node with the edge that arrives at each."""
    spec = stage_spec(node.stage)
    found = []
    for name in (*spec.inputs, *spec.many):
        for edge in node.inputs.get(name, ()):
            port = Port(_port_name(name, edge, spec.many), name, _stage_of(edge) == LOOPED_STAGE)
            found.append((port, edge))
    return found


def output_port(stage: str, output: str) -> str:
    """The name of an output, prefixed by its stage where an input has the same name."""
    taken = {port.name for port in input_ports(stage)}
    return f"{stage}_{output}" if output in taken else output


def digest_parameter(stage: str, output: str) -> str:
    """The output parameter that holds an output's digest; `digest` alone is that of everything the stage made."""
    outputs = stage_spec(stage).outputs
    return "digest" if len(outputs) == 1 else f"{output_port(stage, output)}_digest"


def settings_parameter(node: str) -> str:
    """The output parameter of `plan` with the settings of a node."""
    return f"{node.replace('-', '_')}_settings"


def _port_name(name: str, edge: Edge, many: tuple[str, ...]) -> str:
    """`votes` of the node `vote-first` arrives as `votes_first`."""
    if name not in many:
        return name
    suffix = edge.node.removeprefix(_stage_of(edge)).lstrip("-")
    return f"{name}_{suffix}" if suffix else name


def _stage_of(edge: Edge) -> str:
    return next(node.stage for node in GRAPH if node.name == edge.node)
