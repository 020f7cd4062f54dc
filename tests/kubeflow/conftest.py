"""Calling a stage the way Kubeflow does: ExecutorInput as KFP's own types write it, outputs read back by them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.compiler.pipeline_spec_builder import to_protobuf_value
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.kubeflow.executor import run_task
from lorapar.progress import Silent
from lorapar.store import open_store, put_tree, seal


def executor_input(
    root: Path, parameters: Mapping[str, Any], artifacts: Iterable[str] = (), outputs: Iterable[str] = ()
) -> str:
    """The JSON that KFP's launcher puts in place of {{$}}."""
    message = pb.ExecutorInput()
    for name, value in parameters.items():
        message.inputs.parameter_values[name].CopyFrom(to_protobuf_value(value))
    for name in artifacts:
        message.outputs.artifacts[name].artifacts.append(pb.RuntimeArtifact(name=name, uri=str(root / "out" / name)))
    for name in outputs:
        message.outputs.parameters[name].output_file = str(root / "out" / f"{name}.parameter")
    message.outputs.output_file = str(root / "executor_output.json")
    return json_format.MessageToJson(message)


class Cluster:
    """A store, and tasks that run against it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root / "store")
        self.store = open_store(self.address)
        self.count = 0

    def run(
        self, stage: str, parameters: Mapping[str, Any], artifacts: Iterable[str] = (), outputs: Iterable[str] = ()
    ) -> pb.ExecutorOutput:
        """Run one task; its output, parsed as strictly as KFP does."""
        self.count += 1
        folder = self.root / f"task-{self.count}"
        text = executor_input(folder, parameters, (*artifacts, "metrics"), (*outputs, "digest"))
        run_task(stage, text, self.address, self.root / "scratch", Silent())
        written = json.loads((folder / "executor_output.json").read_text(encoding="utf-8"))
        return json_format.ParseDict(written, pb.ExecutorOutput(), ignore_unknown_fields=False)

    def put(self, folder: Path, kind: str = "test.rows") -> str:
        """Put a folder into the store as an artifact; its digest."""
        manifest = seal(folder, kind)
        put_tree(self.store, folder)
        self.store.write(f"manifests/{manifest.digest}.json", manifest.model_dump_json().encode())
        return manifest.digest


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A store of its own and the tasks of one run."""
    return Cluster(tmp_path)
