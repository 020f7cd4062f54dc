"""ExecutorOutput: what a container reports to Kubeflow at its end, in the file that ExecutorInput names.

KFP parses it strictly: one unknown field, NaN or infinity, and every output is lost. So only finite JSON goes in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorapar.kubeflow.executor_input import ExecutorInput, RuntimeArtifact

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
