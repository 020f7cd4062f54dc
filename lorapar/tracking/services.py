"""What each tracker is sent, and how: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError
from lorapar.extras import pip_install
from lorapar.tracking.names import LONGEST_NAME, batches, cell, cut, steps_of, table_of, unique_names

ANSWER_SECONDS = 10.0
"""How long a run waits for the first answer of a tracker."""
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@dataclass(frozen=True)
class Summary:
    """What is known of a run at its end."""

    finished: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Steps of each stage of training, with `step`; sent where the stage was reused, so no trainer logged them."""
    files: Sequence[Path] = ()
    """Files, and folders with all that is in them, such as the adapter."""
    rollouts: Path | None = None
    """Completions of RL that were kept, a JSON object a line."""


@dataclass(frozen=True)
class TrackedRun:
    """What a run is called in every tracker."""

    name: str
    identity: str
    """The same for every start of one run with one set of settings, which a tracker then shows as one."""
    folder: Path

    @classmethod
    def of(cls, name: str, folder: Path, settings: str) -> TrackedRun:
        """A run of these settings, as text, in this folder."""
        return cls(name, hashlib.sha256(f"{folder.resolve()}\n{settings}".encode()).hexdigest()[:32], folder)


def require(name: str) -> None:
    """Import a tracker's package, which takes seconds; raises BadInputError where it cannot be used here."""
    package = _PACKAGES[name]
    try:
        import_module(package)
    except ModuleNotFoundError:
        command = "pip install wandb" if name == "wandb" else pip_install("track")
        raise BadInputError(
            f"report.trackers: {name} needs the package {package}, which is not here: {command}"
        ) from None
    if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInputError(
            "report.trackers: mlflow needs to know its server: set MLFLOW_TRACKING_URI, such as http://mlflow:5000"
        )


class Tracker(ABC):
    """What a tracker can do; called in its thread alone."""

    prefixed = False
    """Whether both stages' curves go to one place, and so carry the stage in their names."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run

    @property
    def address(self) -> str | None:
        """Of its server; None where there is none."""
        return None

    @abstractmethod
    def open(self) -> str:
        """Begin, or go on with, the run; what it goes by there."""

    @abstractmethod
    def callback(self, stage: str) -> Any:
        """transformers' own callback for the curves of a stage."""

    def note(self, stage: str, step: int, metrics: Mapping[str, str]) -> None:  # noqa: B027
        """Figures of a step that are no finite numbers; a tracker without words leaves them out."""

    @abstractmethod
    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """The curves of a stage that was reused, unless they are there."""

    @abstractmethod
    def end(self, summary: Summary) -> None:
        """What is known at the end."""


class _TensorBoard(Tracker):
    """Event files in the run's own folder."""

    def open(self) -> str:
        self._folder = self.run.folder / "tensorboard"
        self._folder.mkdir(parents=True, exist_ok=True)
        return str(self._folder.resolve())

    def _writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(log_dir=str(self._folder / name))

    def callback(self, stage: str) -> Any:
        from transformers.integrations import TensorBoardCallback

        return TensorBoardCallback(tb_writer=self._writer(stage))

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        if (self._folder / stage).exists():
            return
        with self._writer(stage) as writer:
            for step, metrics in steps_of(steps):
                for name, value in metrics.items():
                    writer.add_scalar(f"train/{name}", value, step)

    def end(self, summary: Summary) -> None:
        with self._writer("summary") as writer:
            for name, value in summary.metrics.items():
                writer.add_scalar(name, value)
            table = "\n".join(f"| `{name}` | {cell(value)} |" for name, value in summary.settings.items())
            writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}")
            for file in summary.files:
                if file.suffix == ".json" and file.is_file():
                    writer.add_text(file.name, f"```\n{file.read_text(encoding='utf-8')}\n```")


class _MLflow(Tracker):
    """A run with a child run for each stage of training, since both log under the same names."""

    @property
    def address(self) -> str | None:
        return _http_address(os.environ.get("MLFLOW_TRACKING_URI"))

    def open(self) -> str:
        for name, value in _MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.run.name
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = self._run_of("run", self.run.name)
        return self._id

    def _run_of(self, stage: str, name: str, **tags: str) -> str:
        """The run of a stage of ours that is there already, or a new one."""
        ours = {"lorapar.run": self.run.identity, "lorapar.stage": stage}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in ours.items())
        for found in self._client.search_runs([self._experiment], filter_string=wanted, max_results=1):
            return str(found.info.run_id)
        made = self._client.create_run(self._experiment, run_name=name, tags={**ours, **tags})
        return str(made.info.run_id)

    def callback(self, stage: str) -> Any:
        from transformers.integrations import MLflowCallback

        self._child = self._child_of(stage)
        os.environ["MLFLOW_RUN_ID"] = self._child  # what the callback asks to go on with a run that is there
        return MLflowCallback()

    def _child_of(self, stage: str) -> str:
        return self._run_of(stage, stage, **{"mlflow.parentRunId": self._id})

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        child = self._child_of(stage)
        if self._client.get_run(child).data.metrics:
            return
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for step, one in steps_of(steps) for name, value in one.items()]
        for batch in batches(points):
            self._client.log_batch(child, metrics=batch)
        self._client.set_terminated(child)

    def note(self, stage: str, step: int, metrics: Mapping[str, str]) -> None:
        for name, value in metrics.items():
            self._client.set_tag(self._child, f"step {step}: {name}"[:LONGEST_NAME], value)

    def end(self, summary: Summary) -> None:
        from mlflow.entities import Metric, Param

        known = self._client.get_run(self._id).data.params
        now = int(time.time() * 1000)
        named = unique_names(summary.metrics)
        metrics = [Metric(name, value, now, 0) for name, value in named.items() if math.isfinite(value)]
        parameters = [
            Param(name, cut(value)) for name, value in unique_names(summary.settings).items() if name not in known
        ]
        for batch in batches(metrics):
            self._client.log_batch(self._id, metrics=batch)
        for batch in batches(parameters):
            self._client.log_batch(self._id, params=batch)
        for name, value in named.items():
            if not math.isfinite(value):
                self._client.set_tag(self._id, name, str(value))
        for file in summary.files:
            if file.is_dir():
                self._client.log_artifacts(self._id, str(file), artifact_path=file.name)
            elif file.is_file():
                self._client.log_artifact(self._id, str(file))
        if summary.rollouts is not None:
            self._client.log_dict(self._id, table_of(summary.rollouts), _ROLLOUTS)
            # By this tag MLflow's pages show an artifact as a table; its log_table would append to an earlier one's.
            self._client.set_tag(self._id, "mlflow.loggedArtifacts", json.dumps([{"path": _ROLLOUTS, "type": "table"}]))
        self._client.set_terminated(self._id, "FINISHED" if summary.finished else "FAILED")


_ROLLOUTS = "rollouts.json"
_MLFLOW_ENVIRONMENT = {
    # By default one call may take minutes where a server does not answer.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class _Wandb(Tracker):
    """One run; curves of both stages carry the stage's name."""

    @property
    def address(self) -> str | None:
        return _http_address(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")

    prefixed = True

    def open(self) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self.run.name,
            id=self.run.identity,
            name=self.run.name,
            resume="allow",
            settings=wandb.Settings(init_timeout=ANSWER_SECONDS, silent=True, console="off"),
        )
        return str(self._run.id)

    def callback(self, stage: str) -> Any:
        from transformers.integrations import WandbCallback

        return WandbCallback()

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        if self._run.resumed:
            return
        for step, metrics in steps_of(steps):
            named = {f"train/{stage}/{name}": value for name, value in metrics.items()}
            self._run.log({**named, "train/global_step": step})

    def end(self, summary: Summary) -> None:
        import wandb

        self._run.summary.update(dict(summary.metrics))
        self._run.config.update(dict(summary.settings), allow_val_change=True)
        artifact = wandb.Artifact(f"run-{self.run.identity}", type="lorapar-run")
        for file in summary.files:
            if file.is_dir():
                artifact.add_dir(str(file), name=file.name)
            elif file.is_file():
                artifact.add_file(str(file), name=file.name)
        if summary.rollouts is not None:
            artifact.add_file(str(summary.rollouts), name=summary.rollouts.name)
        self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if summary.finished else 1)


def _http_address(text: str | None) -> str | None:
    """A server's address; None for a folder or a database, which MLflow takes too."""
    return text if text and text.startswith(("http://", "https://")) else None


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}
