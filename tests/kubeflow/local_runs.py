"""Running the shipped package with kfp's own local orchestrator, each task in this process instead of a container."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import components, local
from kfp.local import docker_task_handler, status
from kfp.local.orchestrator import task_executor

from lorapar.errors import LoraparError
from lorapar.kubeflow.executor import run_task
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.placement import Placement
from lorapar.progress import Silent


@dataclass(frozen=True)
class Started:
    """A task as it was started."""

    stage: str
    parameters: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What Kubeflow's cache key holds of it beside image and command: its parameters, and no artifact."""
        return json.dumps([self.stage, dict(self.parameters)], sort_keys=True)


@dataclass
class LocalRuns:
    """Runs of the package against one store."""

    root: Path
    started: list[Started] = field(default_factory=list)
    first: list[Started] = field(default_factory=list)
    failing: Callable[[Started], bool] = lambda _: False
    """Which tasks are to die at once, as if their pod had."""

    @property
    def store(self) -> str:
        """The address of the store."""
        return str(self.root / "store")

    def run(self, **parameters: Any) -> list[Started]:
        """Run the pipeline; the tasks in the order they were started."""
        # Tasks of a loop share a folder in kfp.local, and would overwrite each other's outputs if they ran at once.
        package = build_package({}, Placement(vote_parallelism=1))
        self.started = []
        with self._in_this_process():
            places = {"pipeline_root": str(self.root / "outputs"), "workspace_root": str(self.root / "workspace")}
            random.seed()  # kfp.local draws the run's id there, and training has seeded it alike for each run
            local.init(local.DockerRunner(), **places, raise_on_error=False)
            components.load_component_from_text(package.text())(store=self.store, **parameters)
        return self.started

    @contextmanager
    def _in_this_process(self) -> Iterator[None]:
        runs = self

        def run(handler: docker_task_handler.DockerTaskHandler) -> status.Status:
            return runs._start(list(handler.full_command))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(docker_task_handler.DockerTaskHandler, "run", run)
            # Between two tries of a task kfp.local waits as long as Argo would: half a minute that proves nothing.
            patch.setattr(task_executor, "time", SimpleNamespace(sleep=lambda seconds: None))
            yield

    def _start(self, command: list[str]) -> status.Status:
        stage, text = command[2], command[4]
        task = Started(stage, json.loads(text)["inputs"].get("parameterValues", {}))
        self.started.append(task)
        if self.failing(task):
            return status.Status.FAILURE
        try:
            run_task(stage, text, None, self.root / "scratch", Silent())
        except LoraparError:
            return status.Status.FAILURE
        return status.Status.SUCCESS
