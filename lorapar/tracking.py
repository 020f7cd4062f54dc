"""A run in experiment trackers: TensorBoard, MLflow and Weights & Biases beside it.

Curves come by transformers' own integrations; votes, partition, evaluation, gate, adapter and lineage once at the end.
Each tracker works in a thread of its own, in order. One that fails or does not answer is told once and then left out:
a run waits for none of them longer than `ANSWER_SECONDS` at its start and `LAST_SECONDS` at its end.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError
from lorapar.redaction import redact

ANSWER_SECONDS = 10.0
LAST_SECONDS = 60.0
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
_BAD_IN_NAMES = re.compile(r"[^\w\-./: ]", re.ASCII)
_LONGEST_NAME = 250
_LONGEST_PARAMETER = 500
"""MLflow's oldest servers take no more; a longer one is cut there, and whole in config.yaml beside it."""
_BATCH = 100

Say = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """What is known of a run at its end."""

    finished: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Steps of each stage of training, with `step`; sent where the stage was reused, so no trainer logged them."""
    files: Sequence[Path] = ()
    """Files, and folders with all that is in them, such as the adapter."""


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


class Tracking:
    """The trackers of one run; made by `tracked`."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers
        self._trained: set[str] = set()

    @property
    def ids(self) -> dict[str, str]:
        """What the run goes by in each tracker that answered."""
        return {worker.name: worker.id for worker in self._workers if worker.id}

    def callbacks(self, stage: str) -> list[Any]:
        """transformers' own callbacks for a stage's trainer, which work beside it."""
        self._trained.add(stage)
        return [_beside(worker, stage) for worker in self._workers if worker.alive]

    def end(self, summary: Summary) -> None:
        """Send what is known at the end, and wait for it no longer than LAST_SECONDS."""
        reused = {stage: steps for stage, steps in summary.curves.items() if stage not in self._trained}
        for worker in self._workers:
            for stage, steps in reused.items():
                worker.do(partial(worker.tracker.curve, stage, steps))
            worker.do(partial(worker.tracker.end, summary))
        until = time.monotonic() + LAST_SECONDS
        for worker in self._workers:
            worker.finish(max(0.0, until - time.monotonic()))


@contextmanager
def tracked(
    names: Sequence[str], run: TrackedRun, say: Say, summary: Callable[[bool], Summary]
) -> Iterator[Tracking | None]:
    """Open a run in trackers; at the end of the block they get what `summary(whether it ended well)` says.

    Raises BadInputError where a package or the address of a server is missing. None without trackers.
    """
    if not names:
        yield None
        return
    for name in names:
        require(name)
    workers = [_Worker(name, _TRACKERS[name](run), say) for name in names]
    for worker in workers:
        worker.open()
    tracking, finished = Tracking(workers), False
    try:
        yield tracking
        finished = True
    finally:
        try:
            told = summary(finished)
        except Exception:  # the run's own failure matters more
            told = Summary(finished)
        tracking.end(told)


def require(name: str) -> None:
    """Import a tracker's package, which takes seconds; raises BadInputError where it cannot be used here."""
    package = _PACKAGES[name]
    try:
        import_module(package)
    except ModuleNotFoundError:
        what = "wandb" if name == "wandb" else "'lorapar[track]'"
        raise BadInputError(
            f"report.trackers: {name} needs the package {package}, which is not here: pip install {what}"
        ) from None
    if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInputError(
            "report.trackers: mlflow needs to know its server: set MLFLOW_TRACKING_URI, such as http://mlflow:5000"
        )


class _Worker:
    """One tracker's thread; what it is given is done in order, until something fails."""

    def __init__(self, name: str, tracker: _Tracker, say: Say) -> None:
        self.name, self.tracker, self.id = name, tracker, ""
        self.alive = True
        self._say = say
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)

    def open(self) -> None:
        """Begin, and wait for the tracker's first answer."""
        opened = threading.Event()

        def begin() -> None:
            try:
                self.id = self.tracker.open()
            finally:
                opened.set()

        self._thread.start()
        self._work.put(begin)
        if not opened.wait(ANSWER_SECONDS):
            self._leave(f"did not answer within {ANSWER_SECONDS:g} s")

    def do(self, work: Callable[[], None]) -> None:
        """Do this after what was given before."""
        if self.alive:
            self._work.put(work)

    def finish(self, seconds: float) -> None:
        """Wait for what is left to do."""
        self._work.put(None)
        if not self.alive:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._leave(f"did not take everything within {LAST_SECONDS:g} s")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if not self.alive:
                continue
            try:
                work()
            except BaseException as error:  # a library of a tracker may exit as well as raise
                reason = redact(" ".join(str(error).split()))[:200]
                self._leave(f"failed ({type(error).__name__}{': ' + reason if reason else ''})")

    def _leave(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._say(f"{self.name} {why}; the run goes on without it, and all figures are in its folder")


class _Tracker:
    """What a tracker can do; called in its thread alone."""

    prefixed = False
    """Whether both stages' curves go to one place, and so carry the stage in their names."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run

    def open(self) -> str:
        """Begin, or go on with, the run; what it goes by there."""
        raise NotImplementedError

    def callback(self, stage: str) -> Any:
        """transformers' own callback for the curves of a stage."""
        raise NotImplementedError

    def note(self, stage: str, step: int, figures: Mapping[str, str]) -> None:
        """Figures of a step that are no finite numbers."""

    def curve(self, stage: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """The curves of a stage that was reused, unless they are there."""
        raise NotImplementedError

    def end(self, summary: Summary) -> None:
        """What is known at the end."""
        raise NotImplementedError


class _TensorBoard(_Tracker):
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
            for step, figures in _steps(steps):
                for name, value in figures.items():
                    writer.add_scalar(f"train/{name}", value, step)

    def end(self, summary: Summary) -> None:
        with self._writer("summary") as writer:
            for name, value in summary.figures.items():
                writer.add_scalar(name, value)
            table = "\n".join(f"| `{name}` | {_cell(value)} |" for name, value in summary.settings.items())
            writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}")
            for file in summary.files:
                if file.suffix == ".json" and file.is_file():
                    writer.add_text(file.name, f"```\n{file.read_text(encoding='utf-8')}\n```")


class _MLflow(_Tracker):
    """A run with a child run for each stage of training, since both log under the same names."""

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
        points = [Metric(name, value, now, step) for step, one in _steps(steps) for name, value in one.items()]
        for batch in _batches(points):
            self._client.log_batch(child, metrics=batch)
        self._client.set_terminated(child)

    def note(self, stage: str, step: int, figures: Mapping[str, str]) -> None:
        for name, value in figures.items():
            self._client.set_tag(self._child, f"step {step}: {name}"[:_LONGEST_NAME], value)

    def end(self, summary: Summary) -> None:
        from mlflow.entities import Metric, Param

        known = self._client.get_run(self._id).data.params
        now = int(time.time() * 1000)
        figures = unique_names(summary.figures)
        metrics = [Metric(name, value, now, 0) for name, value in figures.items() if math.isfinite(value)]
        parameters = [
            Param(name, _cut(value)) for name, value in unique_names(summary.settings).items() if name not in known
        ]
        for batch in _batches(metrics):
            self._client.log_batch(self._id, metrics=batch)
        for batch in _batches(parameters):
            self._client.log_batch(self._id, params=batch)
        for name, value in figures.items():
            if not math.isfinite(value):
                self._client.set_tag(self._id, name, str(value))
        for file in summary.files:
            if file.is_dir():
                self._client.log_artifacts(self._id, str(file), artifact_path=file.name)
            elif file.is_file():
                self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id, "FINISHED" if summary.finished else "FAILED")


_MLFLOW_ENVIRONMENT = {
    # By default one call may take minutes where a server does not answer.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class _Wandb(_Tracker):
    """One run; curves of both stages carry the stage's name."""

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
        for step, figures in _steps(steps):
            named = {f"train/{stage}/{name}": value for name, value in figures.items()}
            self._run.log({**named, "train/global_step": step})

    def end(self, summary: Summary) -> None:
        import wandb

        self._run.summary.update(dict(summary.figures))
        self._run.config.update(dict(summary.settings), allow_val_change=True)
        artifact = wandb.Artifact(f"run-{self.run.identity}", type="lorapar-run")
        for file in summary.files:
            if file.is_dir():
                artifact.add_dir(str(file), name=file.name)
            elif file.is_file():
                artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if summary.finished else 1)


_TRACKERS: dict[str, type[_Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}


def _beside(worker: _Worker, stage: str) -> Any:
    """A callback of transformers that hands what happens to the tracker's own, in the tracker's thread."""
    from transformers import TrainerCallback

    tracker = worker.tracker
    made: list[Any] = []

    def tell(event: str, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not made:
            made.append(tracker.callback(stage))
        getattr(made[0], event)(args, state, control, **more)

    class Beside(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            then = copy(state)
            worker.do(lambda: tell("on_train_begin", args, then, control, model=model))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            finite, others = of_a_step(logs or {})
            prefix = f"{stage}/" if tracker.prefixed else ""
            then = copy(state)
            worker.do(
                lambda: tell("on_log", args, then, control, logs={prefix + name: one for name, one in finite.items()})
            )
            if others:
                worker.do(lambda: tracker.note(stage, then.global_step, others))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            then = copy(state)
            worker.do(lambda: tell("on_train_end", args, then, control))

    return Beside()


def of_a_step(logs: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """What a trainer logs, as finite numbers under names that every tracker takes, and the rest as text."""
    finite: dict[str, float] = {}
    others: dict[str, str] = {}
    for name, value in unique_names(logs).items():
        number = value if isinstance(value, int | float) else None
        if number is not None and math.isfinite(number):
            finite[name] = float(number)
        else:
            others[name] = str(value)
    return finite, others


def unique_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under names that every tracker takes; two that become alike are told apart by a number."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = _plain(name)
        unlike, number = plain, 2
        while unlike in found:
            unlike, number = f"{plain}_{number}", number + 1
        found[unlike] = value
    return found


def _plain(name: str) -> str:
    """MLflow refuses a name that is no path in its shortest form: `a/`, `a//b`, `./a`, `..a`."""
    parts = _BAD_IN_NAMES.sub("_", name)[: _LONGEST_NAME - 6].split("/")
    kept = [f"_{part}" if part.startswith(".") else part for part in parts if part]
    return "/".join(kept) or "_"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists with their paths, joined by dots."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping | list | tuple) for one in value):
        for position, inner in enumerate(value):
            yield from flat(inner, f"{name}.{position}")
    else:
        yield name, value


def _steps(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Lines of a history: the step's number and its finite figures."""
    for line in steps:
        yield int(line["step"]), of_a_step({name: value for name, value in line.items() if name != "step"})[0]


def _cut(text: str) -> str:
    end = "… (whole in config.yaml)"
    return text if len(text) <= _LONGEST_PARAMETER else text[: _LONGEST_PARAMETER - len(end)] + end


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _batches(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _BATCH):
        yield list(values[start : start + _BATCH])
