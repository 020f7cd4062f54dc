"""Training on several nodes: the task starts a TrainJob, or finds the one it started before, and ends like it.

runs/<run>/nodes/<attempt>/<rank>.json    how a node ended; of the first one with the record of what was made

The nodes run the task's own command; their environment marks them as nodes. The first node does everything that the
task would do alone; the others wait for the work it distributes (`lorapar.stages.nodes`).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.errors import (
    BadInputError,
    ExitCode,
    LoraparError,
    StoppedError,
    Terminated,
    TrainingError,
    UnreachableError,
)
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.trainer_api import AlreadyThereError, JobPod, TrainerApi, ended_by_signal, why_not_started
from lorapar.kubeflow.trainjob import (
    ATTEMPT_ANNOTATION,
    ATTEMPT_VARIABLE,
    KEY_ANNOTATION,
    NODES_VARIABLE,
    JobName,
    SeveralNodes,
    train_job,
)
from lorapar.local.folder import StageRecord
from lorapar.progress import Progress
from lorapar.redaction import redact
from lorapar.stages.nodes import Crew, FirstNodeGoneError, Nodes, serve
from lorapar.store import NotFoundError

POLL_SECONDS = 3.0
PATIENCE_SECONDS = 120.0
"""How long pods may take to start before a line says what they wait for; the same as in `submit --wait`."""
END_SECONDS = 120.0
"""How long the other nodes have to end by themselves and to save their work, once one has failed."""
STOP_SECONDS = 25.0
"""The same where the task itself gets SIGTERM: it is killed after 30 seconds."""
GONE_SECONDS = 300.0
"""How long a job that is being deleted may take."""
SILENCE_SECONDS = 600.0
"""How long Kubernetes may be silent while a job is followed."""
DEADLINE_EXCEEDED = "DeadlineExceeded"
"""The reason that Kubeflow Trainer gives a job that has run longer than its activeDeadlineSeconds."""
_ATTEMPT = re.compile(r"lorapar-(sft|rl)-[0-9a-f]{12}-[0-9a-f]{8}")
_POD_VARIABLES = ("KFP_POD_NAME", "HOSTNAME")


class NodeOutcome(BaseModel):
    """How a node ended."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    exit_code: int = ExitCode.OK
    message: str = ""
    of_another: bool = False
    """Whether it ended only because another one did."""
    record: StageRecord | None = None
    """The record of what was made; only the first node has it."""


class Outcomes:
    """The outcomes that the nodes of one job leave in the store."""

    def __init__(self, ledger: Ledger, attempt: str) -> None:
        if not _ATTEMPT.fullmatch(attempt):
            raise BadInputError(f"'{attempt}' is no name that a task gave a TrainJob; delete the job and start again")
        self._store, self._prefix = ledger.store, f"runs/{ledger.run}/nodes/{attempt}"

    def read(self, rank: int) -> NodeOutcome | None:
        """How a node ended; None where it has not ended."""
        try:
            return NodeOutcome.model_validate_json(self._store.read(f"{self._prefix}/{rank}.json"))
        except (NotFoundError, ValidationError):
            return None

    def write(self, rank: int, outcome: NodeOutcome) -> None:
        """Write how this node ended."""
        self._store.write(f"{self._prefix}/{rank}.json", outcome.model_dump_json().encode())


# What the task does.


def nodes_wanted(record: StageRecord) -> SeveralNodes | None:
    """The nodes that the package asks for; None where it asks for none, or there is nothing to train."""
    text = os.environ.get(NODES_VARIABLE, "")
    if not text or not record.settings.get("trains"):
        return None
    try:
        return SeveralNodes.model_validate_json(text)
    except ValidationError as error:
        raise BadInputError(f"{NODES_VARIABLE}: {error.errors()[0]['msg']}; compile the pipeline again") from None


def train_on_nodes(
    ledger: Ledger, record: StageRecord, wanted: SeveralNodes, command: Sequence[str], progress: Progress
) -> StageRecord:
    """Train in a TrainJob that runs `command` on each node; returns the record that its first node completed.

    Raises the LoraparError of the node that has one, Terminated where the task or the nodes were asked to stop.
    """
    if not ledger.run:
        raise BadInputError("several nodes: LORAPAR_RUN names no run; compile the pipeline again")
    job = _Job(TrainerApi(), ledger, JobName(ledger.run, record.node, record.key), wanted, progress)
    try:
        job.start(command)
        job.follow()
        record = job.conclude()
        if not job.is_complete:
            job.end(0)  # a node hangs: free its accelerators for others
        return record
    except KeyboardInterrupt:
        progress.log(f"told to stop: the TrainJob {job.name} is deleted, and its nodes keep what they have done")
        job.end(STOP_SECONDS)
        raise
    except Exception:
        job.end(0)
        raise


class _Job:
    """The TrainJob of a task."""

    def __init__(
        self, api: TrainerApi, ledger: Ledger, name: JobName, wanted: SeveralNodes, progress: Progress
    ) -> None:
        self.name = name.text
        self._api, self._ledger, self._of, self._wanted, self._progress = api, ledger, name, wanted, progress
        self._log = _FirstLog(api)
        self._attempt, self._pods = "", list[JobPod]()
        self._waiting_since, self._logged = time.monotonic(), ""
        self._mine, self._failed = False, dict[str, Any]()
        self.is_complete = False
        """Whether all nodes have succeeded, according to the job."""

    def start(self, command: Sequence[str]) -> None:
        """Start the job, unless an earlier try of the task did."""
        while not self._found():
            attempt = f"{self.name}-{uuid.uuid4().hex[:8]}"
            pod = self._api.pod(next(filter(None, map(os.environ.get, _POD_VARIABLES)), ""))
            with suppress(AlreadyThereError):
                self._api.create(train_job(pod, self._wanted, self._of, attempt, command))
                self._attempt, self._mine = attempt, True
                self._progress.log(
                    f"TrainJob {self.name}: {self._wanted.takes.text()}, by the runtime {self._wanted.runtime}; "
                    f"kubectl -n {self._api.namespace} get trainjob {self.name}"
                )
                return

    def _found(self) -> bool:
        """Whether there is a job to continue; a failed one is removed first."""
        found = self._api.job(self.name)
        if found is None:
            return False
        metadata = found["metadata"]
        marks = metadata.get("annotations") or {}
        if marks.get(KEY_ANNOTATION) != self._of.key:
            raise BadInputError(f"the TrainJob {self.name} is there and not this task's; delete it and start again")
        if metadata.get("deletionTimestamp") or _condition(found, "Failed"):
            self._progress.log(f"the TrainJob {self.name} of an earlier try has ended; waiting until it is gone")
            if not self._remove(GONE_SECONDS):
                raise UnreachableError(
                    f"the TrainJob {self.name} of an earlier try is still there {GONE_SECONDS:.0f} s after it was "
                    f"deleted; see its pods, and kubectl -n {self._api.namespace} describe trainjob {self.name}"
                )
            return False
        self._attempt, self._mine = str(marks.get(ATTEMPT_ANNOTATION)), True
        Outcomes(self._ledger, self._attempt)
        self._progress.log(f"the TrainJob {self.name} of an earlier try is there; following it")
        return True

    def follow(self) -> None:
        """Return once the job has ended, or one node has failed and the others have ended or used up their time."""
        answered, failed_at = time.monotonic(), None
        while True:
            try:
                job, self._pods = self._look()
                answered = time.monotonic()
            except UnreachableError:
                if time.monotonic() - answered > SILENCE_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            self._log.attend(self._pods)
            if job is None:
                raise StoppedError(f"the TrainJob {self.name} was deleted; the next run goes on", terminated=True)
            self.is_complete = _condition(job, "Complete") is not None
            self._failed = _condition(job, "Failed") or {}
            if self.is_complete or self._failed:
                break
            if any(pod.failed for pod in self._pods):
                failed_at = failed_at or time.monotonic()
                if all(pod.ended for pod in self._pods) or time.monotonic() - failed_at > END_SECONDS:
                    break
            else:
                self._log_waiting(job)
            time.sleep(POLL_SECONDS)
        self._log.finish()

    def conclude(self) -> StageRecord:
        """The record that the first node completed; raises the error that ended the job."""
        outcomes = Outcomes(self._ledger, self._attempt)
        found = {rank: one for rank in range(self._wanted.nodes) if (one := outcomes.read(rank)) is not None}
        record = found[0].record if 0 in found else None
        if record is not None:
            if record.key != self._of.key:
                raise BadInputError(
                    f"the nodes made something else than the task wants: both images must hold the same lorapar "
                    f"(the nodes': {record.version})"
                )
            return record
        error = _error_of(found)
        if error is None and self._failed.get("reason") == DEADLINE_EXCEEDED:
            raise StoppedError(
                f"the TrainJob {self.name} was ended after {self._wanted.timeout_seconds} s, its timeout_seconds in "
                "the placement file; its nodes keep what they have done: raise it, and the next run goes on",
                terminated=True,
            )
        raise error or _failure(self.name, self._api.namespace, found, self._pods, self._failed)

    def end(self, seconds: float) -> None:
        """Delete the job, if it belongs to this task; return once it is gone, or after `seconds`."""
        if self._mine:
            with suppress(LoraparError):
                self._remove(seconds)
            self._log.finish()

    def _remove(self, seconds: float) -> bool:
        """Delete the job; returns whether it is gone in time."""
        until = time.monotonic() + seconds
        self._api.delete(self.name)
        while (is_there := self._api.job(self.name) is not None) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return not is_there

    def _look(self) -> tuple[dict[str, Any] | None, list[JobPod]]:
        return self._api.job(self.name), [JobPod.of(one) for one in self._api.pods(self.name)]

    def _log_waiting(self, job: dict[str, Any]) -> None:
        """Log what pods wait for, after two minutes and whenever that changes."""
        now = time.monotonic()
        if sum(pod.started for pod in self._pods) >= self._wanted.nodes:
            self._waiting_since = now
            return
        if now - self._waiting_since < PATIENCE_SECONDS:
            return
        why = why_not_started(job, self._pods, self._wanted, self._api.namespace)
        if why != self._logged:
            self._logged = why
            self._progress.log(why)


class _FirstLog:
    """Shows the log of the first node's pod as it comes, and of the pod that takes its place."""

    def __init__(self, api: TrainerApi) -> None:
        self._api, self._pod, self._last = api, "", ""
        self._thread: threading.Thread | None = None

    def attend(self, pods: Sequence[JobPod]) -> None:
        """Begin to read once there is a log, or go on where the connection broke."""
        pod = next((one for one in pods if one.rank == 0 and one.started), None)
        if pod is None or (self._thread is not None and self._thread.is_alive()):
            return
        if pod.name == self._pod and pod.ended and self._thread is not None:
            return
        self._pod = pod.name
        self._thread = threading.Thread(target=self._read, args=(pod.name,), name="log", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the rest of the log of a container that has ended."""
        if self._thread is not None:
            self._thread.join(10)

    def _read(self, pod: str) -> None:
        with suppress(LoraparError):
            for moment, line in self._api.log(pod):
                if moment > self._last:
                    self._last = moment
                    _show(line)


def _show(line: str) -> None:
    with suppress(OSError, ValueError):  # Kubeflow's launcher, which reads it, may end first
        sys.stdout.write(f"{redact(line)}\n")
        sys.stdout.flush()


def _condition(job: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The job's condition of this kind, if it is true."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


def _error_of(found: dict[int, NodeOutcome]) -> LoraparError | None:
    """The error of the first node whose error a person can fix."""
    from lorapar.stages.process_endings import ERRORS

    for one in _own(found):
        if one.exit_code in ERRORS:
            return ERRORS[ExitCode(one.exit_code)](one.message)
    return None


def _own(found: dict[int, NodeOutcome]) -> list[NodeOutcome]:
    """The outcomes of nodes that did not end because of another one, in order."""
    return [one for _, one in sorted(found.items()) if not one.of_another]


def _failure(
    name: str,
    namespace: str,
    found: dict[int, NodeOutcome],
    pods: Sequence[JobPod],
    condition: Mapping[str, Any],
) -> BaseException:
    """The cause of a failed job whose nodes have no error: a killed pod, a stop from outside, or Trainer itself."""
    killed = next((pod for pod in pods if ended_by_signal(pod) and pod.rank not in found), None)
    if killed is not None:
        return TrainingError(
            f"node {killed.rank} of the TrainJob {name} was killed ({killed.reason or 'no reason given'}, exit code "
            f"{killed.exit_code}), and the others ended with it; where nobody did that, memory ran out: lower the "
            "batch_size or raise `memory` in the placement file. The next run goes on from the last checkpoint"
        )
    bug = next((one.message for one in _own(found) if one.message), "")
    if not bug and any(one.exit_code == ExitCode.TERMINATED for one in found.values()):
        return Terminated()
    lines = [f"node {pod.rank}: exit code {pod.exit_code} {pod.reason}".rstrip() for pod in pods if pod.failed]
    ended = f"{condition.get('reason', '')}: {condition.get('message', '')}" if condition else ""
    message = bug or "; ".join(lines) or ended or "no node left a word"
    return RuntimeError(f"the TrainJob {name} failed ({message}); kubectl -n {namespace} describe trainjob {name}")


# What a node does.


def is_node() -> bool:
    """Whether this process is a node of a TrainJob that a task started."""
    return bool(os.environ.get(ATTEMPT_VARIABLE))


def work_as_node(ledger: Ledger, folder: Path, work: Callable[[Crew], StageRecord]) -> None:
    """Do this node's part, and write its outcome to the store.

    The first node does `work`, the others what it distributes. A container that starts again after a failure ends at
    once with the same error: the task deletes the job.
    """
    outcomes, nodes = Outcomes(ledger, os.environ[ATTEMPT_VARIABLE]), Nodes.of_environment()
    before = outcomes.read(nodes.rank)
    # A lost first node is no error of this one: a job that was suspended goes on.
    first_was_gone = before is not None and before.of_another and before.exit_code == ExitCode.UNREACHABLE
    if before is not None and before.exit_code != ExitCode.TERMINATED and not first_was_gone:
        _leave(before.exit_code)
    try:
        outcome = _worked(nodes, folder, work)
    except LoraparError as error:
        outcomes.write(nodes.rank, _of_error(error))
        raise
    except KeyboardInterrupt:
        outcomes.write(nodes.rank, NodeOutcome(exit_code=ExitCode.TERMINATED))
        raise
    except Exception:
        outcomes.write(nodes.rank, NodeOutcome(exit_code=ExitCode.BUG, message=redact(traceback.format_exc())))
        raise
    outcomes.write(nodes.rank, outcome)
    if outcome.exit_code:
        _leave(outcome.exit_code)


def _worked(nodes: Nodes, folder: Path, work: Callable[[Crew], StageRecord]) -> NodeOutcome:
    from lorapar.stages.processes import join

    if nodes.rank:
        return NodeOutcome(exit_code=serve(nodes, folder, join), of_another=True)
    with Crew.assembled(nodes) as crew:
        return NodeOutcome(record=work(crew))


def _of_error(error: LoraparError) -> NodeOutcome:
    from lorapar.stages.process_endings import LostNodesError

    of_another = isinstance(error, FirstNodeGoneError | LostNodesError)
    return NodeOutcome(exit_code=error.exit_code, message=redact(str(error)), of_another=of_another)


def _leave(code: int) -> NoReturn:
    raise SystemExit(code)
