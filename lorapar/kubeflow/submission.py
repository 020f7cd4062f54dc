"""What `lorapar submit` does once its options are checked: upload, start, follow, and say how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lorapar.config import RunConfig
from lorapar.errors import ExitCode, LoraparError
from lorapar.kubeflow.follow import TaskState, follow, stage_table, task_states
from lorapar.kubeflow.ledger import Ledger
from lorapar.records import digest_of
from lorapar.store import open_store

_SUCCEEDED = "SUCCEEDED"


@dataclass(frozen=True)
class Ending:
    """How a run ended, for a person and for a script."""

    exit_code: ExitCode
    line: str


def fingerprint(version: str, values: Mapping[str, Any], config: RunConfig) -> str:
    """Digest of what a run would be made from: the package, every parameter, and model and data as they are now."""
    resolved = {"model": config.model.digest, "data": config.data.digest}
    return digest_of({"package": version, "parameters": dict(values), "resolved": resolved})


def wait_for(server: Any, run: str, store: str, console: Console) -> Ending:
    """Follow a run to its end and say how it ended."""
    ended = follow(server.run, run, console)
    tasks = task_states(ended)
    console.print(stage_table(tasks))
    if ended.state != _SUCCEEDED:
        return Ending(ExitCode.RUN_FAILED, _failure(run, store, ended, tasks))
    return _success(run, _outcome(store, run), tasks)


def metrics_of_run(store: str, run: str) -> dict[str, Any] | None:
    """metrics.json of a run; None where this machine cannot read the run's store."""
    try:
        data = Ledger(open_store(store), run).read_result("metrics.json")
    except LoraparError:
        return None
    return json.loads(data) if data is not None else None


def _outcome(store: str, run: str) -> dict[str, Any] | None:
    """What the run's report wrote down; None where this machine cannot read the run's store."""
    try:
        data = Ledger(open_store(store), run).read_result("outcome.json")
    except LoraparError:
        return None
    return json.loads(data) if data is not None else None


def _success(run: str, outcome: Mapping[str, Any] | None, tasks: Sequence[TaskState]) -> Ending:
    states = {task.name: task.state for task in tasks}
    promoted = outcome["promoted"] if outcome else states.get("promote") == _SUCCEEDED
    if promoted:
        return Ending(ExitCode.OK, f"run {run}: better, promoted")
    if outcome and outcome["better"]:
        return Ending(ExitCode.OK, f"run {run}: better, but promotion is switched off")
    return Ending(ExitCode.NOT_BETTER, f"run {run}: trained and published, but not better than what serves today")


def _failure(run: str, store: str, ended: Any, tasks: Sequence[TaskState]) -> str:
    outcome = _outcome(store, run)
    errors = outcome["errors"] if outcome else {}
    if errors:
        said = "; ".join(f"{stage}: {line}" for stage, line in errors.items())
    else:
        failed = [task.name for task in tasks if task.state == "FAILED"]
        said = f"{', '.join(failed)} failed" if failed else str(getattr(ended.error, "message", None) or ended.state)
    return f"run {run} {str(ended.state).lower()}: {said}; finished tasks are reused by the next run"
