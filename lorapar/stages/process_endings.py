"""How processes that did a stage together ended: the metrics, or the error of the one that has one.

torchrun turns every exit code into 1, and a process fails as well because another one is gone. So each leaves a file
with its own code and words (`lorapar.stages.processes`), and here it is found out which of them counts.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lorapar.errors import (
    BadInputError,
    ExitCode,
    IntegrityError,
    StorageError,
    Terminated,
    TrainingError,
    UnreachableError,
)
from lorapar.records import read_json
from lorapar.stages.contract import Metrics
from lorapar.stages.nodes import Told
from lorapar.stopping import StopRequest

_SAME_MOMENT_SECONDS = 5
"""Within this time processes end because of one another; what the launcher itself kills ends 30 seconds later."""
ERRORS = {
    kind.exit_code: kind for kind in (BadInputError, UnreachableError, TrainingError, StorageError, IntegrityError)
}
"""The error of each exit code that says what a person can do."""


class LostNodesError(TrainingError):
    """Another machine is gone; whoever sees its pod can say why."""


class Failed(NamedTuple):
    """How a process of another machine failed, as torch's ProcessFailure says of those of this one."""

    exitcode: int
    timestamp: float


def outcomes(control: Path) -> dict[int, Told]:
    """What each process of this machine has left, by rank."""
    return {rank: read_json(path) for path in control.glob("outcome-*.json") for rank in [_rank_of(path)]}


def concluded(
    found: Mapping[int, Told], failures: Mapping[int, Any], stop: StopRequest, lost_nodes: int = 0
) -> Metrics:
    """The metrics, or the error of the process that has one; others failed because that one was gone."""
    if not failures and not lost_nodes and found.get(0, {}).get("exit_code") == ExitCode.OK:
        metrics: Metrics = found[0]["metrics"]
        return metrics
    known = [one for one in found.values() if one["exit_code"] in ERRORS and not one["of_another"]]
    if known:
        first = min(known, key=lambda one: one["time"])
        raise ERRORS[first["exit_code"]](first["message"])
    if stop.requested:
        raise Terminated
    first_time = min((one.timestamp for one in failures.values()), default=0)
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and failure.timestamp <= first_time + _SAME_MOMENT_SECONDS:
            raise _killed(rank, failure.exitcode)
    if any(one["exit_code"] == ExitCode.TERMINATED for one in found.values()):
        raise Terminated
    if lost_nodes:
        raise LostNodesError(
            f"{lost_nodes} of the other nodes said nothing more, and the processes here ended with them: a pod was "
            "killed or evicted, or ran out of memory. The next run goes on from the last checkpoint"
        )
    text = next((one["message"] for one in found.values() if one["exit_code"] == ExitCode.BUG), "it left no message")
    raise RuntimeError(f"one of several processes failed (exit codes {_codes(failures)}): {text}")


def _rank_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _codes(failures: Mapping[int, Any]) -> str:
    return ", ".join(f"{rank}: {failure.exitcode}" for rank, failure in sorted(failures.items()))


def _killed(rank: int, exit_code: int) -> TrainingError:
    name = signal.Signals(-exit_code).name
    return TrainingError(
        f"process {rank} was killed ({name}), and the others ended with it; where nobody did that, memory ran out: "
        "lower the batch_size or the setting processes. The same command goes on from where it was"
    )
