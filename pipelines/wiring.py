"""What a task takes from others: digests, found by the edges of lorapar/stages/graph.py."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from lorapar.kubeflow.tasks import digest_parameter, input_ports, task_named, task_of

Tasks = Mapping[str, dsl.PipelineTask]


def fed(name: str, tasks: Tasks) -> dict[str, Any]:
    """The inputs of the task `name`: the digests of what earlier tasks have made; of a loop's tasks, all of them."""
    inputs = {}
    for parameter, (port, edge) in input_ports(task_named(name)).items():
        output = tasks[task_of(edge.node).name].outputs[digest_parameter(edge)]
        inputs[parameter] = dsl.Collected(output) if port.several else output
    return inputs
