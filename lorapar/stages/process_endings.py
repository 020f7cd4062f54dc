"""How processes that did a stage together ended: the metrics, or the error of the one that has one.

torchrun turns every exit code into 1, and a process fails as well because another one is gone. So each leaves a file
with its own code and words (`lorapar.stages.processes`), and here it is found out which of them counts.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from lorapar.stages.nodes import Document
from lorapar.stopping import StopRequest

_SAME_MOMENT_SECONDS = 5
"""Within this time processes of a machine end because of one another; what its launcher kills ends 30 seconds later."""
ERRORS = {
    kind.exit_code: kind for kind in (BadInputError, UnreachableError, TrainingError, StorageError, IntegrityError)
}
"""The error of each exit code that says what a person can do."""


class LostNodesError(TrainingError):
    """Another machine is gone; its pod shows why."""


class Failed(NamedTuple):
    """How a process of another machine failed, as torch's ProcessFailure says of those of this one."""

    exitcode: int
    timestamp: float


@dataclass(frozen=True)
class Machine:
    """How the processes of one machine ended, by rank; its clock is its own, and compared with no other's."""

    found: Mapping[int, Document]
    """What each has left."""
    failures: Mapping[int, Any]
    """Those that failed."""

    def first_error(self) -> Document | None:
        """What the process said that had an error of its own, the first of them; None where none had."""
        known = [one for one in self.found.values() if one["exit_code"] in ERRORS and not one["of_another"]]
        return min(known, key=lambda one: one["time"], default=None)

    def killed(self) -> tuple[int, Any] | None:
        """The process that was killed before the others ended because of it; None where none was."""
        first_time = min((one.timestamp for one in self.failures.values()), default=0)
        for rank, failure in sorted(self.failures.items()):
            if failure.exitcode < 0 and failure.timestamp <= first_time + _SAME_MOMENT_SECONDS:
                return rank, failure
        return None


def outcomes(control: Path) -> dict[int, Document]:
    """What each process of this machine has left, by rank."""
    return {rank: read_json(path) for path in control.glob("outcome-*.json") for rank in [_rank_of(path)]}


def concluded(machines: Sequence[Machine], stop: StopRequest, lost_nodes: int = 0) -> Metrics:
    """The metrics, or the error of the process that has one; others failed because that one was gone.

    `machines`: this one first, then those of the other nodes that said how they ended. Where several have an error of
    their own, the first of these machines counts.
    """
    found = {rank: end for machine in machines for rank, end in machine.found.items()}
    failures = {rank: failure for machine in machines for rank, failure in machine.failures.items()}
    if not failures and not lost_nodes and found.get(0, {}).get("exit_code") == ExitCode.OK:
        metrics: Metrics = found[0]["metrics"]
        return metrics
    first = next(filter(None, (machine.first_error() for machine in machines)), None)
    if first is not None:
        raise ERRORS[first["exit_code"]](first["message"])
    if stop.requested:
        raise Terminated
    killed = next(filter(None, (machine.killed() for machine in machines)), None)
    if killed is not None:
        raise _killed(killed[0], killed[1].exitcode)
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
