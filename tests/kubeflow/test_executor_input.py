"""What Kubeflow hands a task is read as KFP's own types mean it."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from kfp import dsl
from kfp.compiler.pipeline_spec_builder import to_protobuf_value
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.errors import BadInputError
from lorapar.kubeflow.executor_io import RuntimeArtifact, read_executor_input

VALUES = {"text": "ä", "number": 2.0, "yes": True, "list": ["a", "b"], "struct": {"pool": "gpu"}, "empty": []}


def message() -> pb.ExecutorInput:
    made = pb.ExecutorInput()
    for name, value in VALUES.items():
        made.inputs.parameter_values[name].CopyFrom(to_protobuf_value(value))
    for number in range(3):
        made.inputs.artifacts["votes"].artifacts.append(
            pb.RuntimeArtifact(name=f"votes-{number}", uri=f"s3://bucket/run/{number}/votes")
        )
    made.outputs.parameters["digest"].output_file = "/run/kfp/digest"
    made.outputs.output_file = "/run/kfp_outputs/output_metadata.json"
    return made


def test_every_kind_of_value_and_a_collected_list_arrive() -> None:
    read = read_executor_input(json_format.MessageToJson(message()))
    assert read.inputs.parameter_values == VALUES
    assert [one.name for one in read.inputs.artifacts["votes"].artifacts] == ["votes-0", "votes-1", "votes-2"]
    assert read.outputs.output_file == "/run/kfp_outputs/output_metadata.json"
    assert read.outputs.parameters["digest"].output_file == "/run/kfp/digest"
    assert read.texts("list") == ["a", "b"]
    assert read.texts("text") == ["ä"]
    assert read.texts("absent") == []


@pytest.mark.parametrize("uri", ["gs://b/x/y", "minio://mlpipeline/v2/y", "s3://b/x", "/local/x"])
def test_local_paths_are_those_of_kfp(uri: str) -> None:
    assert str(RuntimeArtifact(uri=uri).path) == dsl.Artifact(uri=uri).path


def test_a_custom_path_wins() -> None:
    made = pb.ExecutorInput()
    made.inputs.artifacts["m"].artifacts.append(pb.RuntimeArtifact(uri="s3://b/x", custom_path="/elsewhere/x"))
    read = read_executor_input(json_format.MessageToJson(made))
    assert str(read.inputs.artifacts["m"].artifacts[0].path) == "/elsewhere/x"


@pytest.mark.parametrize("text", ["", "{{$}}", "[]", '{"inputs": 3}'])
def test_what_is_no_executor_input_is_one_line(text: str) -> None:
    with pytest.raises(BadInputError, match="--executor-input"):
        read_executor_input(text)


def test_fields_of_a_later_kfp_are_ignored() -> None:
    assert read_executor_input('{"inputs": {"news": 1}, "more": {}}').inputs.parameter_values == {}


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(BadInputError, match="'settings' is missing"):
        read_executor_input("{}").text("settings")
