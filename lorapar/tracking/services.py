"""What each tracker is sent, and how: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError
from lorapar.extras import pip_install
from lorapar.tracking.names import (
    LONGEST_NAME,
    LONGEST_TAG,
    batches,
    cell,
    cut,
    of_a_step,
    steps_of,
    table_of,
    unique_names,
)

ANSWER_SECONDS = 10.0
"""How long a run waits for the first answer of a tracker."""
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


Work = Callable[[], None]


@dataclass(frozen=True)
class Summary:
    """What is known of a run at its end."""

    finished: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Steps of each stage of training, with `step`, of which a tracker is sent what it lacks."""
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
    catches_up = True
    """Whether `curve` finds and sends every step that was not sent while the run went on."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run

    @property
    def address(self) -> str | None:
        """Of its server; None where there is none."""
        return None

    @abstractmethod
    def open(self) -> str:
        """Begin, or go on with, the run; what it goes by there. Called again where it failed."""

    @abstractmethod
    def callback(self, stage: str) -> Any:
        """transformers' own callback for the curves of a stage."""

    def numbers_and_notes(self, logs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """What the callback is given of a step, and what it would lose, as text for `note`."""
        return unique_names(logs), {}

    def note(self, stage: str, step: int, notes: Mapping[str, str]) -> None:  # noqa: B027
        """What of a step is no metric for this tracker."""

    @abstractmethod
    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """Send what the tracker lacks of a stage's curves, at the end of the run."""

    @abstractmethod
    def end(self, summary: Summary) -> Sequence[Work]:
        """What is known at the end, in parts: where one fails, the others are sent all the same."""


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
        there = self._points(stage)
        with self._writer(stage) as writer:
            for step, metrics in steps_of(steps):
                for name, value in metrics.items():
                    point = (f"train/{name}", step)
                    if isinstance(value, int | float) and point not in there:
                        writer.add_scalar(point[0], value, step)
                        there.add(point)

    def _points(self, stage: str) -> set[tuple[str, int]]:
        """(name, step) of every number that the event files of a stage hold."""
        from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
            EventAccumulator,
        )

        if not (self._folder / stage).exists():
            return set()
        read = EventAccumulator(str(self._folder / stage), size_guidance={"scalars": 0}).Reload()
        return {(name, one.step) for name in read.Tags()["scalars"] for one in read.Scalars(name)}

    def end(self, summary: Summary) -> Sequence[Work]:
        return [partial(self._summary, summary)]

    def _summary(self, summary: Summary) -> None:
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

        class Waiting(MLflowCallback):  # type: ignore[misc]
            """Waits for each answer, in this tracker's thread: by default a failure is a line in a log and no more."""

            _async_log = property(lambda self: False, lambda self, value: None)

        os.environ["MLFLOW_RUN_ID"] = self._child_of(stage)  # what the callback asks to go on with a run that is there
        return Waiting()

    def _child_of(self, stage: str) -> str:
        return self._run_of(stage, stage, **{"mlflow.parentRunId": self._id})

    def numbers_and_notes(self, logs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        return of_a_step(logs)

    def note(self, stage: str, step: int, notes: Mapping[str, str]) -> None:
        self._set_tags(self._child_of(stage), {_note_name(step, name): value for name, value in notes.items()})

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        child, now = self._child_of(stage), int(time.time() * 1000)
        there: dict[str, set[int]] = {}
        points: list[Metric] = []
        notes: dict[str, str] = {}
        for step, logs in steps_of(steps):
            numbers, others = of_a_step(logs)
            notes |= {_note_name(step, name): value for name, value in others.items()}
            for name, value in numbers.items():
                if name not in there:
                    there[name] = {one.step for one in self._client.get_metric_history(child, name)}
                if step not in there[name]:
                    points.append(Metric(name, value, now, step))
                    there[name].add(step)
        for batch in batches(points):
            self._client.log_batch(child, metrics=batch)
        self._set_tags(child, notes)
        self._client.set_terminated(child)

    def _set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        there = self._client.get_run(run).data.tags
        missing = [RunTag(name, value[:LONGEST_TAG]) for name, value in tags.items() if name not in there]
        for batch in batches(missing):
            self._client.log_batch(run, tags=batch)

    def end(self, summary: Summary) -> Sequence[Work]:
        parts: list[Work] = [
            partial(self._metrics, summary.metrics),
            partial(self._parameters, summary.settings),
            lambda: self._client.set_terminated(self._id, "FINISHED" if summary.finished else "FAILED"),
        ]
        parts += [partial(self._artifact, file) for file in summary.files]
        return parts if summary.rollouts is None else [*parts, partial(self._rollouts, summary.rollouts)]

    def _metrics(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        numbers, others = of_a_step(values)
        now = int(time.time() * 1000)
        for batch in batches([Metric(name, value, now, 0) for name, value in numbers.items()]):
            self._client.log_batch(self._id, metrics=batch)
        self._set_tags(self._id, others)

    def _parameters(self, settings: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        there = self._client.get_run(self._id).data.params
        named = unique_names(settings)
        for batch in batches([Param(name, cut(value)) for name, value in named.items() if name not in there]):
            self._client.log_batch(self._id, params=batch)

    def _artifact(self, file: Path) -> None:
        if file.is_dir():
            self._client.log_artifacts(self._id, str(file), artifact_path=file.name)
        elif file.is_file():
            self._client.log_artifact(self._id, str(file))

    def _rollouts(self, lines: Path) -> None:
        self._client.log_dict(self._id, table_of(lines), _ROLLOUTS)
        # By this tag MLflow's pages show an artifact as a table; its log_table would append to an earlier one's.
        self._client.set_tag(self._id, "mlflow.loggedArtifacts", json.dumps([{"path": _ROLLOUTS, "type": "table"}]))


def _note_name(step: int, name: str) -> str:
    return f"step {step}: {name}"[:LONGEST_NAME]


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
    catches_up = False

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        self._live: set[str] = set()

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

        self._live.add(stage)
        return WandbCallback()

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        if self._run.resumed or stage in self._live:
            return  # wandb keeps what it is given in a file of its own, and takes no earlier steps afterwards
        for step, metrics in steps_of(steps):
            named = {f"train/{stage}/{name}": value for name, value in metrics.items()}
            self._run.log({**named, "train/global_step": step})

    def end(self, summary: Summary) -> Sequence[Work]:
        return [partial(self._summary, summary)]

    def _summary(self, summary: Summary) -> None:
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
