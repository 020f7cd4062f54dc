"""What `lorapar submit` does once a run has started: follow it, and report how it ended, without guessing."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lorapar.config import RunConfig
from lorapar.errors import ExitCode, LoraparError
from lorapar.kubeflow.follow import (
    GOING,
    IDLE_SECONDS,
    UNSPECIFIED,
    Followed,
    TaskState,
    follow,
    is_gone,
    last_states,
    stage_table,
    was_cancelled,
    word_for,
)
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.package import PlannedTask, build_package
from lorapar.kubeflow.reporting import OUTCOME_FILE, close_cancelled, node_outcomes, recorded_outcome
from lorapar.kubeflow.summary import logged_outcome
from lorapar.kubeflow.waiting import Waiting
from lorapar.kubeflow.workflow import Pod, read_workflow
from lorapar.records import digest_of
from lorapar.redaction import redact
from lorapar.stages.graph import GRAPH
from lorapar.store import open_store

INLINE_CHARACTERS = 400
"""Longer settings are passed by their address. Argo's Workflow holds a run's parameters nine times."""
INLINE_LIMIT_BYTES = 40_000
"""Nine times this on top of the 0.66 MB of a run with four vote tasks, and Argo packs the Workflow at 1 MiB."""
STARTED_AGAIN = 2
"""How often to start a run again whose tasks were stopped from outside, by default."""
STORE_SECONDS = 20.0
"""How long `submit` tries to write them there."""
_SUCCEEDED = "SUCCEEDED"
_TELLING = ("report", "promote", "gate")
"""Nodes whose tasks log parts of the run's outcome; the report has all of it."""
PROMOTED_BEFORE = "; its adapter was promoted before that"
_MARK = "lorapar: "
_SILENT = "failed without a word"
_REUSED = "finished tasks are reused by the next run"
_LONGEST_LINE = 500


class RunStore:
    """What a run leaves in its store. A store that failed once is not asked at every step: that may take a minute."""

    def __init__(self, address: str, run: str) -> None:
        self.address = address
        self.run = run
        self.problem = ""

    def ask(self, question: Callable[[Ledger], Any]) -> Any:
        """The answer; None once the store has refused or not answered, and `problem` says how."""
        if self.problem:
            return None
        try:
            with Waiting(self.address, what="still asked after"):
                return question(Ledger(open_store(self.address), self.run))
        except (LoraparError, OSError) as error:
            # The name of the file that was asked for first does not help a person.
            self.problem = re.sub(rf"/runs/{re.escape(self.run)}/[^\s:]*", "", redact(str(error)))
            return None

    def result(self, name: str) -> tuple[dict[str, Any] | None, str]:
        """A JSON object that the run's report wrote, or why there is none."""
        data = self.ask(lambda ledger: ledger.read_result(name))
        if data is None:
            return None, self.problem or f"{self.address}: the run has left no {name} there"
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        return (value, "") if isinstance(value, dict) else (None, f"{self.address}: the run's {name} is not JSON")


@dataclass(frozen=True)
class Ending:
    """How a run ended, for a person and for a script."""

    exit_code: ExitCode
    line: str
    stopped: bool = False
    """Whether its tasks were stopped from outside rather than failed: a new run goes on from there."""
    promote: str = ""
    """The state of the node `promote`, which Kubeflow does not show: SUCCEEDED or SKIPPED."""


def fingerprint(version: str, values: Mapping[str, Any], config: RunConfig) -> str:
    """Digest of everything a run depends on: the package, every parameter, and model and data as they are now."""
    resolved = {"model": config.model.digest, "data": config.data.digest}
    return digest_of({"package": version, "parameters": dict(values), "resolved": resolved})


def by_address(values: Mapping[str, Any], store: str) -> tuple[dict[str, Any], str]:
    """The parameters, with long settings replaced by their address in the store, where this machine may write there.

    Otherwise they stay inline: Kubeflow's own API takes no files but pipelines (2.17.0, backend/src/apiserver/main.go).
    It does not wait for a store that does not answer. The text says why long settings stay inline.
    """
    text = str(values["config"])
    if len(text) <= INLINE_CHARACTERS:
        return dict(values), ""
    data = text.encode()
    key, put = f"settings/{hashlib.sha256(data).hexdigest()}.yaml", threading.Event()
    asked = RunStore(store, "")

    def keep(ledger: Ledger) -> None:
        ledger.store.write(key, data)
        put.set()

    writer = threading.Thread(target=asked.ask, args=(keep,), daemon=True)
    writer.start()
    writer.join(STORE_SECONDS)
    if put.is_set():
        return {**values, "config": f"{store.rstrip('/')}/{key}"}, ""
    return dict(values), _inline(len(data), store, asked.problem or f"{store} has not answered yet")


def _inline(size_bytes: int, store: str, why: str) -> str:
    """What happens to a run whose Workflow has to hold the settings."""
    then = (
        "Kubeflow's page of the run will not change and Argo may refuse it"
        if size_bytes > INLINE_LIMIT_BYTES
        else "which is not too much"
    )
    return (
        f"the settings could not be put into the store ({why}), so the run itself holds their {size_bytes} bytes, nine "
        f"times; {then}; give this machine the right to write below {store.rstrip('/')}/settings"
    )


def wait_for(server: Any, run: str, store: str, tasks: Sequence[PlannedTask], console: Console) -> Ending:
    """Follow a run to its end and return how it ended."""
    kept = RunStore(store, run)
    followed = Followed(server, run, tasks, lambda: kept.ask(node_outcomes) or {})
    follow(followed, console)
    # A store that did not answer half-way may answer now.
    kept.problem = ""
    states = followed.states()
    ending = _ending(followed, kept, states)
    console.print(stage_table(last_states(followed, states, ending.promote)))
    return ending


def _ending(followed: Followed, kept: RunStore, states: Sequence[TaskState]) -> Ending:
    if followed.deleted:
        return _deleted(followed.run, kept)
    if followed.cancelled or followed.gone:
        return _cancelled(followed, kept, states)
    if followed.found.state != _SUCCEEDED:
        return _failure(followed, kept, states)
    return _success(followed, kept)


def metrics_of_run(store: str, run: str) -> dict[str, Any] | None:
    """metrics.json of a run; None where this machine cannot read the run's store."""
    return RunStore(store, run).result("metrics.json")[0]


def write_cancelled(store: str, run: str) -> bool | None:
    """Write the summary of a cancelled run, unless it exists already; returns whether it was written.

    None where the store refused or did not answer.
    """
    with tempfile.TemporaryDirectory() as work:
        written: bool | None = RunStore(store, run).ask(lambda ledger: close_cancelled(ledger, Path(work)))
    return written


def told_state(server: Any, run: Any) -> str:
    """The state of a lorapar run for a list: also `cancelled` and `gone`, which Kubeflow calls failed and running."""
    state = str(run.state or "")
    if not server.is_ours(run):
        return state.lower()
    if state not in GOING and was_cancelled(run):
        return "cancelled"
    if state in GOING:
        text = server.manifest(run.run_id)
        workflow = read_workflow(text, build_package({}, None).tasks()) if text else None
        if workflow is not None and is_gone(server, str(run.run_id), workflow):
            return "gone"
    return "pending" if state in ("", UNSPECIFIED) else word_for(state)


def _success(followed: Followed, kept: RunStore) -> Ending:
    """The outcome from the run's report or the deciding tasks' records in the store, else from the tasks' logs."""
    outcome, unread = kept.result(OUTCOME_FILE)
    ending = _ending_of(followed.run, outcome or {}) or _ending_of(followed.run, kept.ask(recorded_outcome) or {})
    if ending is not None:
        return ending
    outcome, silent = _logged(followed)
    ending = _ending_of(followed.run, outcome)
    if ending is not None:
        return ending
    return Ending(
        ExitCode.UNKNOWN,
        f"run {followed.run}: succeeded, but whether its adapter is better or was promoted is not known here: "
        f"{unread or f'{OUTCOME_FILE} does not say it'}; {silent}; look at the page of the task `report` in Kubeflow "
        "or at `lorapar adapters list`",
    )


def _ending_of(run: str, outcome: Mapping[str, Any]) -> Ending | None:
    """The ending that an outcome states, or None. A missing key means unknown, not false."""
    better, promoted, wanted = (outcome.get(name) for name in ("better", "promoted", "wanted"))
    if outcome.get("unchanged"):
        return Ending(ExitCode.OK, f"run {run}: nothing changed since run {outcome['unchanged']}, which succeeded")
    if promoted is True:
        return Ending(ExitCode.OK, f"run {run}: better, promoted", promote=_SUCCEEDED)
    if better is False:
        line = f"run {run}: trained and published, but not better than what serves today"
        return Ending(ExitCode.NOT_BETTER, line, promote="SKIPPED")
    if better is not True or (promoted is None and wanted is not False):
        return None
    if wanted is True:
        line = f"run {run}: better, but not promoted: a person has taken this version out of production"
        return Ending(ExitCode.OK, line, promote=_SUCCEEDED)
    return Ending(ExitCode.OK, f"run {run}: better, but promotion is switched off", promote="SKIPPED")


def _logged(followed: Followed) -> tuple[dict[str, Any], str]:
    """What the logs of the deciding tasks say, over Kubeflow's API; or why they say nothing."""
    if followed.workflow is None:
        return {}, "Kubeflow does not hand out the run's workflow, so that no log can be found"
    outcome: dict[str, Any] = {}
    silent = "none of its tasks has a log that says it"
    for pod in _pods_of(followed, _TELLING):
        try:
            outcome |= logged_outcome(followed.server.log(followed.run, pod.name))
        except LoraparError as error:
            silent = str(error)
    return outcome, silent


def _pods_of(followed: Followed, nodes: Sequence[str]) -> Iterator[Pod]:
    """Pods of tasks that run one of these nodes. Those of the first node come last: it knows most."""
    pods = followed.workflow.pods() if followed.workflow is not None else []
    for name in reversed(nodes):
        yield from (pod for pod in pods if name in pod.nodes and pod.state == _SUCCEEDED)


def _deleted(run: str, kept: RunStore) -> Ending:
    """The ending of a deleted run: its logs are deleted too, but the store has its outcome."""
    ending = _finished(run, kept)
    if ending is not None:
        return ending
    return Ending(
        ExitCode.UNKNOWN,
        f"run {run}: is not in Kubeflow any more: somebody has deleted it, and nothing in {kept.address} says how it "
        f"came out{f' ({kept.problem})' if kept.problem else ''}; see `lorapar adapters list`; finished tasks are "
        "reused by the next run",
    )


def _finished(run: str, kept: RunStore) -> Ending | None:
    """The ending that the report of a finished run wrote; None where there is none."""
    outcome = kept.result(OUTCOME_FILE)[0] or {}
    return _ending_of(run, outcome) if outcome.get("succeeded") is True and not outcome.get("cancelled") else None


def _cancelled(followed: Followed, kept: RunStore, states: Sequence[TaskState]) -> Ending:
    """How far a run had come when somebody cancelled it; its report did not run, so this writes its summary.

    A Workflow that is deleted right after its end also leaves its run as running, but has a report.
    """
    ending = _finished(followed.run, kept)
    if ending is not None:
        return ending
    write_cancelled(kept.address, followed.run)
    reached = [task.name for task in states if task.state in ("FAILED", "RUNNING", "CANCELED", "PENDING")]
    where = f" during {', '.join(reached)}" if reached else " before its first task"
    how = _how_gone(followed) if followed.gone and not followed.cancelled else "was cancelled in Kubeflow"
    before = _promoted_before(followed, kept)
    line = f"run {followed.run} {how}{where}{before}; {_REUSED}"
    return Ending(ExitCode.CANCELLED, line, promote=_SUCCEEDED if before else "")


def _how_gone(followed: Followed) -> str:
    workflow = followed.workflow
    if workflow is None or workflow.has_begun:
        return "is gone: its workflow was deleted in the cluster, and Kubeflow shows it as running forever"
    look = f"kubectl -n {workflow.namespace} get workflow {workflow.name}"
    return (
        f"is considered gone: it has had no pod for {IDLE_SECONDS / 60:.0f} min, since its workflow was deleted in the "
        f"cluster or Argo's controller does not run (`{look}` says which)"
    )


def _failure(followed: Followed, kept: RunStore, states: Sequence[TaskState]) -> Ending:
    run, pods = followed.run, _failed_pods(followed)
    stopped = bool(pods) and all(pod.stopped for pod in pods)
    errors = _errors(kept) or {_names(followed, pod): _reason(followed, pod) for pod in pods}
    failed = [task.name for task in states if task.state == "FAILED"]
    if errors:
        words = "; ".join(f"{stage}: {line}" for stage, line in errors.items())
    elif failed:
        words = f"{', '.join(failed)} failed"
    else:
        words = str(getattr(followed.found.error, "message", None) or followed.found.state)
    if stopped:
        names = ", ".join(_names(followed, pod) for pod in pods)
        words = f"{names} was stopped from outside, not by an error of its own (a pod deleted, a node taken): {words}"
    before = _promoted_before(followed, kept)
    line = f"run {run} {str(followed.found.state).lower()}: {words}{before}{_next_step(words, pods)}; {_REUSED}"
    return Ending(ExitCode.RUN_FAILED, line, stopped, _SUCCEEDED if before else "")


def _next_step(words: str, pods: Sequence[Pod]) -> str:
    """What to do about a failure that no stage could say anything about."""
    if "OOMKilled" in words:
        return "; give the task more `memory` in the placement file, or make its batches smaller"
    if _SILENT in words:
        return "; its events may say why: " + ", ".join(f"`kubectl describe pod {pod.name}`" for pod in pods)
    return ""


def _promoted_before(followed: Followed, kept: RunStore) -> str:
    """A note that a failed run promoted its adapter before it failed, as when only its report failed."""
    in_the_store = (kept.result(OUTCOME_FILE)[0] or {}, kept.ask(recorded_outcome) or {})
    promoted = any(one.get("promoted") is True for one in in_the_store)
    return PROMOTED_BEFORE if promoted or _logged(followed)[0].get("promoted") is True else ""


def _errors(kept: RunStore) -> dict[str, str]:
    """The errors of stages: from the report, or from what the stages left in the store."""
    outcome, _ = kept.result(OUTCOME_FILE)
    if outcome is not None and outcome.get("errors"):
        return dict(outcome["errors"])
    outcomes, lines = kept.ask(node_outcomes) or {}, kept.ask(lambda ledger: ledger.errors()) or {}
    failed = {node.stage for node in GRAPH if outcomes.get(node.name) == "FAILED"}
    return {stage: line for stage, line in lines.items() if stage in failed}


def _failed_pods(followed: Followed) -> list[Pod]:
    """The pods that failed: the last try of each task, or of Kubeflow's driver before it."""
    if followed.workflow is None:
        return []
    last = {pod.attempt_of: pod for pod in (*followed.workflow.pods(), *followed.workflow.drivers())}
    return [pod for pod in last.values() if pod.state == "FAILED"]


def _names(followed: Followed, pod: Pod) -> str:
    return followed.driven(pod) if pod.is_driver else ", ".join(pod.nodes)


def _reason(followed: Followed, pod: Pod) -> str:
    """The last line of a failed pod that lorapar wrote for people, else the last line, else Argo's message."""
    try:
        lines = [line.strip() for line in followed.server.log(followed.run, pod.name).splitlines() if line.strip()]
    except LoraparError:
        lines = []
    meant = [line.partition(_MARK)[2] for line in lines if _MARK in line]
    line = redact(meant[-1] if meant else lines[-1] if lines else "")[:_LONGEST_LINE]
    message = _plain(pod.message)
    return f"{line} ({message})" if line and message else line or message or _SILENT


def _plain(message: str) -> str:
    """Argo's message without brackets: `main: Error (exit code 3)` becomes `exit code 3`."""
    return re.sub(r"\s*\((exit code \d+)\)", r", \1", re.sub(r"^(\w+: )?Error (?=\()", "", message)).removeprefix(", ")
