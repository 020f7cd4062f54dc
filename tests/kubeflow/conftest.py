"""Calling a stage the way Kubeflow does: ExecutorInput as KFP's own types write it, outputs read back by them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.compiler.pipeline_spec_builder import to_protobuf_value
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from rich.console import Console
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import LoraparError, UnreachableError
from lorapar.kubeflow import follow, submission
from lorapar.kubeflow.executor import run_task
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.server import Server, Start, Where
from lorapar.network import OWN_VARIABLE, SHARED_VARIABLES
from lorapar.progress import Silent
from lorapar.store import open_store, put_tree, seal
from tests.kubeflow.api_double import Double
from tests.kubeflow.followed import Wait

STORE = "s3://bucket/lorapar"


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
        text = executor_input(folder, parameters, (*artifacts, "metrics"), outputs)
        run_task(stage, text, self.address, self.root / "scratch", Silent())
        written = json.loads((folder / "executor_output.json").read_text(encoding="utf-8"))
        return json_format.ParseDict(written, pb.ExecutorOutput(), ignore_unknown_fields=False)

    def settings(self, settings: Mapping[str, Any]) -> str:
        """Put the settings of a task's nodes where `plan` would; their digest."""
        return Ledger(self.store).write_settings(dict(settings))

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


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Double]:
    """The double of Kubeflow's API server; the folder `tmp_path` stands for the runs' bucket."""
    monkeypatch.setattr(submission, "open_store", lambda address: open_store(tmp_path))
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    # The double needs no authority of this machine's, for which a file would be put together.
    plain = {name: value for name, value in os.environ.items() if name not in (OWN_VARIABLE, *SHARED_VARIABLES)}
    monkeypatch.setattr("os.environ", {**plain, "KF_PIPELINES_ENDPOINT": "", "KFP_TOKEN": "t0ken"})
    double = Double()
    yield double
    double.stop()


@pytest.fixture
def call(server: Double) -> Call:
    """The command line in this process; an error a person can fix becomes its exit code."""

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*arguments, "--host", server.address])
        if isinstance(result.exception, LoraparError):
            return int(result.exception.exit_code), str(result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return run


@pytest.fixture
def submit(call: Call) -> Call:
    """`lorapar submit` of the preset tiny into the bucket."""
    return lambda *more: call("submit", "--preset", "tiny", "--store", STORE, *more)


@pytest.fixture
def no_rights(server: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that may not read the run's store."""

    def refused(address: str) -> None:
        raise UnreachableError(f"{address}: refused (403 AccessDenied)")

    monkeypatch.setattr(submission, "open_store", refused)


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., None]:
    """Put a result of the run `run-0` into its store."""

    def keep(name: str, text: str) -> None:
        path = tmp_path / "runs" / "run-0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return keep


@pytest.fixture
def wait(server: Double) -> Wait:
    """Start a run of the shipped package and follow it: the exit code, and all that was said."""

    def waited() -> tuple[int, str]:
        package, message = build_package({}, None), io.StringIO()
        server.packages["version"] = {"spec": package.spec}
        client = Server(Where(server.address))
        run = client.start("pipeline", "version", Start("tiny", "lorapar", {"store": STORE}))
        ending = submission.wait_for(client, run, STORE, package.tasks(), Console(file=message, width=160))
        return int(ending.exit_code), message.getvalue() + ending.line

    return waited


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes without a change have passed at every question."""
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(follow, "FROZEN_SECONDS", 0.0)
