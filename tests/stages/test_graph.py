"""The graph fits the stages: every edge carries an output that exists into an input that is declared."""

import pytest

from lorapar.stages.contract import STAGE_NAMES, stage_spec
from lorapar.stages.graph import GRAPH, node_names


@pytest.mark.parametrize("node", GRAPH, ids=lambda node: node.name)
def test_inputs_are_what_the_stage_declares(node):
    spec = stage_spec(node.stage)
    assert set(node.inputs) == {*spec.inputs, *spec.many}
    for name, edges in node.inputs.items():
        assert len(edges) == 1 or name in spec.many, f"{name} takes one folder"


@pytest.mark.parametrize("node", GRAPH, ids=lambda node: node.name)
def test_edges_come_from_earlier_nodes_and_real_outputs(node):
    stages = {other.name: other.stage for other in GRAPH[: node_names().index(node.name)]}
    for edges in node.inputs.values():
        for edge in edges:
            assert edge.node in stages, f"{edge.node} does not run before {node.name}"
            assert edge.output in stage_spec(stages[edge.node]).outputs


def test_every_stage_has_a_place_in_the_graph():
    assert {node.stage for node in GRAPH} == set(STAGE_NAMES)
    assert len(set(node_names())) == len(GRAPH)


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_parameters_and_sections_fill_the_settings(name):
    from lorapar.config import RunConfig

    known = set(RunConfig.model_fields) | {"config"}
    fields = stage_spec(name).settings.model_fields
    required = {field for field, info in fields.items() if info.is_required()}
    for node in GRAPH:
        if node.stage == name:
            assert required <= known | set(node.parameters)
            assert set(node.parameters) <= set(fields)
