"""ExecutorInput and ExecutorOutput: what Kubeflow passes to a container, and what the container reports at its end.

ExecutorInput comes in place of `{{$}}`, as protobuf in its JSON form. It is read by pydantic, because a stage's image
has no kfp; a test compares it with KFP's own types. It names the file that ExecutorOutput goes to. KFP parses that file
strictly: one unknown field, NaN or infinity, and every output is lost. So only finite JSON goes in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from lorapar.errors import BadInputError

# Where KFP's launcher keeps the local copy of an artifact, by the scheme of its address.
_MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}


class _Message(BaseModel):
    """Ignores fields that a later KFP adds."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True, defer_build=True
    )


class RuntimeArtifact(_Message):
    """One artifact of KFP: a small manifest at `path`; the bytes that it names are in the store."""

    name: str = ""
    uri: str = ""
    metadata: dict[str, Any] = {}
    custom_path: str = ""

    @property
    def path(self) -> Path:
        """Where the launcher puts an input or looks for an output."""
        if self.custom_path:
            return Path(self.custom_path)
        for scheme, mount in _MOUNTS.items():
            if self.uri.startswith(scheme):
                return Path(mount + self.uri.removeprefix(scheme))
        return Path(self.uri)


class ArtifactList(_Message):
    """The artifacts of one name; several after a ParallelFor."""

    artifacts: tuple[RuntimeArtifact, ...] = ()


class OutputParameter(_Message):
    """Where KFP reads an output parameter that the executor's output file does not name."""

    output_file: str = ""


class Inputs(_Message):
    """Values and artifacts given to the task."""

    parameter_values: dict[str, Any] = {}
    artifacts: dict[str, ArtifactList] = {}


class Outputs(_Message):
    """The outputs the task must make, and the file that describes them to KFP."""

    parameters: dict[str, OutputParameter] = {}
    artifacts: dict[str, ArtifactList] = {}
    output_file: str = ""


class ExecutorInput(_Message):
    """Everything that Kubeflow passes to a task."""

    inputs: Inputs = Inputs()
    outputs: Outputs = Outputs()

    def text(self, name: str, default: str | None = None) -> str:
        """A text parameter; raises BadInputError where it is missing and there is no default."""
        value = self.inputs.parameter_values.get(name)
        if value is None:
            if default is None:
                raise BadInputError(f"--executor-input: the parameter '{name}' is missing; compile the pipeline again")
            return default
        if not isinstance(value, str):
            raise BadInputError(f"--executor-input: the parameter '{name}' is not text but {type(value).__name__}")
        return value

    def texts(self, name: str) -> list[str]:
        """A text parameter, or a list of them as KFP collects it from a loop; empty where there is none."""
        value = self.inputs.parameter_values.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(one, str) for one in values):
            raise BadInputError(f"--executor-input: the parameter '{name}' is not a list of texts")
        return values


def read_executor_input(text: str) -> ExecutorInput:
    """Parse the JSON; raises BadInputError naming the field that is not as KFP writes it."""
    try:
        return ExecutorInput.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the text"
        raise BadInputError(
            f"--executor-input: {where}: {problem['msg']}; Kubeflow puts it in place of {{{{$}}}}"
        ) from None


EXECUTOR_LOGS = "executor-logs"
"""The artifact that KFP's launcher adds to every task and writes itself."""


class ExecutorOutput:
    """Collects parameters and artifact metadata, then writes them once."""

    def __init__(self, executor_input: ExecutorInput) -> None:
        self._input = executor_input
        self._parameters: dict[str, Any] = {}
        self._metadata: dict[str, dict[str, Any]] = {}

    def artifact(self, name: str) -> RuntimeArtifact | None:
        """The output artifact that KFP expects under a name; None where the component does not declare it."""
        listed = self._input.outputs.artifacts.get(name)
        return listed.artifacts[0] if listed is not None and listed.artifacts else None

    def set_parameter(self, name: str, value: Any) -> None:
        """An output parameter, where the component declares it."""
        if name in self._input.outputs.parameters:
            self._parameters[name] = finite(value)

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Metadata of an output artifact, where the component declares it."""
        if self.artifact(name) is not None:
            self._metadata[name] = finite(metadata)

    def write_file(self, name: str, text: str) -> None:
        """The file at an output artifact's path, where the component declares it."""
        artifact = self.artifact(name)
        if artifact is not None:
            artifact.path.parent.mkdir(parents=True, exist_ok=True)
            artifact.path.write_text(text, encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """The message, in the JSON form of its protobuf type."""
        artifacts = {}
        for name, metadata in self._metadata.items():
            artifact = self.artifact(name)
            if artifact is not None:
                entry = {"name": artifact.name, "uri": artifact.uri, "metadata": metadata}
                artifacts[name] = {"artifacts": [entry]}
        return {"parameterValues": self._parameters, "artifacts": artifacts}

    def write(self) -> None:
        """Write the file, if KFP names one."""
        if not self._input.outputs.output_file:
            return
        # Kubeflow forgets an artifact without a file, and then cannot take the task from its cache.
        for name in self._input.outputs.artifacts:
            artifact = self.artifact(name)
            if name != EXECUTOR_LOGS and artifact is not None and not artifact.path.exists():
                self.write_file(name, "")
        path = Path(self._input.outputs.output_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), allow_nan=False, ensure_ascii=False), encoding="utf-8")


def finite(value: Any) -> Any:
    """The same JSON value with `nan`, `inf` and `-inf` as texts and every key as text."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def flat_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as system.Metrics shows them: finite numbers only; others are left out."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
