"""ExecutorInput, which Kubeflow passes to a container in place of `{{$}}`: protobuf in its JSON form.

Read by pydantic, because a stage's image has no kfp; a test compares it with KFP's own types.
"""

from __future__ import annotations

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
