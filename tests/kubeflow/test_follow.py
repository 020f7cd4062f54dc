"""`lorapar submit --wait` says how a run ended, and says that it does not know where nothing says it.

The double (api_double.py, argo_double.py) names the release and the files of Kubeflow that it behaves like.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as api
import pytest
from rich.console import Console

from lorapar.kubeflow import follow, submission
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.summary import outcome_line
from lorapar.stages.graph import node_names
from lorapar.store import open_store
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Argo, Fate, fate
from tests.kubeflow.conftest import Call
from tests.kubeflow.followed import ALL, DONE, Wait, says, until

ENDINGS = [
    ({"better": True, "promoted": True, "wanted": True}, 0, "better, promoted"),
    ({"better": False, "promoted": False, "wanted": False}, 10, "not better than what serves today"),
    ({"better": True, "promoted": False, "wanted": False}, 0, "better, but promotion is switched off"),
    ({"better": True, "promoted": False, "wanted": True}, 0, "a person has taken this version out of production"),
]


@pytest.mark.parametrize(("outcome", "code", "message"), ENDINGS)
def test_the_store_says_how_it_ended_whatever_the_tasks_look_like(
    server: Double, submit: Call, kept: Callable[..., None], outcome: dict[str, Any], code: int, message: str
) -> None:
    server.endings = [DONE]
    kept("outcome.json", json.dumps(outcome))
    kept("metrics.json", json.dumps({"base": {"system1_accuracy": 0.25}}))
    ended, words = submit("--wait")
    assert (ended, message in words, "25.0%" in words) == (code, True, True), words


@pytest.mark.parametrize(("outcome", "code", "message"), ENDINGS)
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.usefixtures("no_rights")
def test_without_rights_in_the_store_the_log_of_the_report_says_it(
    server: Double, wait: Wait, outcome: dict[str, Any], code: int, message: str, archived: bool
) -> None:
    server.endings = [Frame("SUCCEEDED", ALL | {"report": Fate(log=outcome_line(outcome), archived=archived)})]
    ended, words = wait()
    assert (ended, message in words) == (code, True), words


DECIDED = [
    ({"gate": says(better=False, wanted=False)}, 10),
    ({"gate": says(better=True, wanted=False)}, 0),
    ({"gate": says(better=True, wanted=True, promoted=True)}, 0),
    ({"gate": says(better=True, wanted=True, promoted=False)}, 0),
]


@pytest.mark.parametrize(("nodes", "code"), DECIDED)
@pytest.mark.usefixtures("no_rights")
def test_without_the_report_the_gate_and_promote_say_it(
    server: Double, wait: Wait, nodes: dict[str, Fate], code: int
) -> None:
    server.endings = [Frame("SUCCEEDED", ALL | nodes)]
    ended, words = wait()
    assert ended == code, words
    assert ("better, promoted" in words) == (nodes["gate"] == says(better=True, wanted=True, promoted=True)), words


SILENT = {
    "no log is there": DONE,
    "the gate wants it and nothing says that it was done": Frame(
        "SUCCEEDED", ALL | {"gate": says(better=True, wanted=True), "promote": "SUCCEEDED"}
    ),
    "promote was skipped and nothing says why": Frame("SUCCEEDED", ALL | {"promote": "SKIPPED"}),
    "the logs say other things": Frame("SUCCEEDED", ALL | {"report": Fate(log="better: maybe\nlorapar outcome: {")}),
    "the report knows nothing": Frame("SUCCEEDED", ALL | {"report": says(better=None, promoted=None)}),
    "no tasks are shown": Frame("SUCCEEDED", {}),
    "the details froze early": [
        Frame("RUNNING", until("score-system1")),
        Frame("SUCCEEDED", ALL | {"promote": "SUCCEEDED"}, packed=True),
    ],
}


@pytest.mark.parametrize("frames", list(SILENT.values()), ids=list(SILENT))
@pytest.mark.usefixtures("no_rights")
def test_where_nothing_says_it_the_command_does_not_know(server: Double, wait: Wait, frames: Any) -> None:
    server.endings = [frames]
    ended, words = wait()
    assert ended == 13, words
    assert "whether its adapter is better or was promoted is not known here" in words
    assert "AccessDenied" in words


@pytest.mark.parametrize("left", ["", "not JSON", "[]", "{}", '{"better": null, "promoted": false}'])
def test_an_outcome_in_the_store_that_says_nothing_is_none(
    server: Double, wait: Wait, kept: Callable[..., None], left: str
) -> None:
    server.endings = [DONE]
    if left:
        kept("outcome.json", left)
    ended, words = wait()
    assert (ended, "outcome.json" in words) == (13, True), words


@pytest.mark.usefixtures("no_rights")
def test_a_kubeflow_that_hands_out_no_workflow_leaves_it_unknown(server: Double, wait: Wait) -> None:
    server.endings = [Frame("SUCCEEDED", ALL | {"report": says(better=True, promoted=True)})]
    server.hands_out_workflows = False
    ended, words = wait()
    assert (ended, "does not hand out the run's workflow" in words) == (13, True), words


@pytest.mark.usefixtures("no_rights")
def test_a_promoted_run_whose_details_froze_is_reported_as_promoted(server: Double, wait: Wait) -> None:
    """As seen: better, promoted, and no `promote` among the task details, which had stopped at a megabyte."""
    full = ALL | {"promote": "SUCCEEDED", "report": says(better=True, promoted=True)}
    server.endings = [[Frame("RUNNING", until("score-system1")), Frame("SUCCEEDED", full, packed=True)]]
    ended, words = wait()
    assert ended == 0, words
    assert "better, promoted" in words
    assert "gate: succeeded" in words, "the workflow itself shows what the details do not"


def test_every_node_of_the_graph_is_shown_once_under_its_own_name(server: Double, wait: Wait) -> None:
    """Details are called `tally`, `tally-2`, `vote-round`, `score-2`: Argo's names, not those of the graph."""
    server.endings = [DONE]
    words = wait()[1]
    table = words[words.index("stage ") :].splitlines()[1:]
    shown = [line.split()[0] for line in table if line.startswith(tuple(f" {name} " for name in node_names()))]
    assert [name for name in shown if name in node_names()] == node_names()
    states = dict(line.split()[:2] for line in table[: len(node_names())])
    assert states == {name: "succeeded" if name in ALL else "-" for name in node_names()}


@pytest.mark.parametrize("at", ["prepare", "tally", "sft", "execute"])
def test_every_node_of_a_task_is_shown_while_the_run_goes_on(at: str) -> None:
    """Nothing but the details says so then; a task of several nodes has one detail."""
    package = build_package({}, None)
    (task,) = [one for one in package.tasks() if at in one.nodes]
    before = node_names()[: node_names().index(task.nodes[0])]
    fates = {name: fate("SUCCEEDED") for name in before} | {task.name: fate("RUNNING")}
    details = Argo(package.spec, fates).details()
    found = SimpleNamespace(run_details=SimpleNamespace(task_details=details))
    states = {one.name: one.state for one in follow.task_states(found, package.tasks())}
    wanted = {**dict.fromkeys(node_names(), ""), **dict.fromkeys(before, "SUCCEEDED")}
    assert states == wanted | dict.fromkeys(task.nodes, "RUNNING")


def test_a_promotion_that_shares_its_task_is_shown_where_the_store_has_its_record(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endings = [DONE, DONE]
    assert "promote        -" in wait()[1]
    monkeypatch.setattr(submission, "node_outcomes", lambda ledger: {"promote": "SUCCEEDED"})
    assert "promote        succeeded" in wait()[1]


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ({"better": True, "promoted": True}, "succeeded"),
        ({"better": True, "promoted": False, "wanted": True}, "succeeded"),
        ({"better": True, "promoted": False, "wanted": False}, "skipped"),
        ({"better": False}, "skipped"),
        ({}, "-"),
    ],
)
@pytest.mark.usefixtures("no_rights")
def test_the_table_and_the_line_below_it_say_the_same_of_the_promotion(
    server: Double, wait: Wait, outcome: dict[str, bool], shown: str
) -> None:
    server.endings = [Frame("SUCCEEDED", ALL | {"report": says(**outcome)})]
    assert re.search(rf"^ *promote +{shown} *$", wait()[1], re.MULTILINE)


STATES = sorted(api.V2beta1RuntimeState.allowable_values)
WORDS = {
    "cancelling",
    "succeeded",
    "failed",
    "running",
    "pending",
    "skipped",
    "cached",
    "cancelled",
    "stopped",
    "gone",
    "paused",
    "-",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("run", ["RUNNING", "SUCCEEDED", "FAILED"])
def test_each_state_of_a_task_is_a_word_for_people(state: str, run: str) -> None:
    """Kubeflow calls a task that Argo has left out RUNTIME_STATE_UNSPECIFIED (2.17.0, api_converter.go)."""
    detail = api.V2beta1PipelineTaskDetail(display_name="sft", state=state)
    found = SimpleNamespace(state=run, run_details=SimpleNamespace(task_details=[detail]))
    followed = follow.Followed(None, "run-0", build_package({}, None).tasks(), dict, found=found)  # type: ignore[arg-type]
    states = {one.name: one.state for one in followed.states()}
    if run != "RUNNING":
        states = {one.name: one.state for one in follow.last_states(followed, followed.states(), "")}
        assert states["sft"].lower() not in ("running", "pending", "canceling", "paused")
    table, message = follow.stage_table(followed.states()), io.StringIO()
    Console(file=message).print(table)
    shown = next(line.split() for line in message.getvalue().splitlines() if line.split()[:1] == ["sft"])
    assert shown[1] in WORDS, shown


OPEN = until("rl", rl=Fate("RUNNING"), init=Fate("PENDING"))


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (Frame("FAILED", OPEN, history=("CANCELING",)), "cancelled"),
        (Frame("CANCELED", OPEN), "cancelled"),
        (Frame("FAILED", OPEN), "stopped"),
        (Frame("SUCCEEDED", OPEN), "-"),
    ],
)
@pytest.mark.usefixtures("no_rights")
def test_nothing_is_shown_as_running_in_a_run_that_has_ended(
    server: Double, wait: Wait, frame: Frame, shown: str
) -> None:
    """Kubeflow's details stay what they were where Argo has ended the pods, or packed the statuses."""
    server.endings = [frame]
    words = wait()[1]
    table = words[words.rindex("stage ") :]
    assert "running" not in table
    assert "pending" not in table
    assert re.search(rf"^ *rl +{shown}", table, re.MULTILINE), table
    assert re.search(rf"^ *init +{shown}", table, re.MULTILINE), table


def test_keys_of_the_package_name_each_node_of_the_graph_once() -> None:
    """Whatever the compiler calls a task, it stands for the same nodes everywhere in the package."""
    tasks = build_package({}, None).tasks()
    assert len({task.key for task in tasks}) == len(tasks)
    assert sorted(name for task in tasks for name in task.nodes) == sorted(node_names())


LOG = "step 3\nlorapar: sft: the loss is NaN at step 3\nF1128 main.go:59] failed to execute component: exit status 4\n"
"""Kubeflow's launcher has the last word (2.17.0, backend/src/v2: cmd/launcher-v2/main.go, component/launcher_v2.go)."""
FAILED_SFT = until("sft", sft=Fate("FAILED", exit_code=4, log=LOG))


@pytest.mark.usefixtures("no_rights")
def test_the_reason_of_a_failure_comes_from_the_log_where_the_store_cannot_be_read(server: Double, wait: Wait) -> None:
    server.endings = [Frame("FAILED", FAILED_SFT)]
    ended, words = wait()
    assert ended == 12
    assert "sft: the loss is NaN at step 3 (exit code 4)" in words
    assert len(server.runs) == 1, "a stage that failed is not started again by itself"


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        (Fate("FAILED", exit_code=137, message="OOMKilled (exit code 137)"), "rl: OOMKilled, exit code 137; give"),
        (Fate("FAILED", exit_code=3), "rl: exit code 3;"),
        (Fate("FAILED", message="main: Error (exit code 3)", exit_code=3, log="killed\n"), "rl: killed (exit code 3);"),
        (Fate("FAILED", message="Pod was rejected: no room"), "rl: Pod was rejected: no room;"),
        (Fate("FAILED", exit_code=1, log="Traceback\nKeyError: 'x'\n"), "KeyError: 'x'"),
        (Fate("FAILED", exit_code=3, log="lorapar: s3://b: InternalError\n", archived=True), "s3://b: InternalError"),
        (Fate("FAILED", exit_code=2, log="lorapar: https://me:hunter2@host refused\n"), "https://"),
        (Fate("FAILED"), "failed without a word; its events may say why: `kubectl describe pod "),
    ],
)
@pytest.mark.usefixtures("no_rights")
def test_a_failed_task_says_the_most_that_is_left_of_it(server: Double, wait: Wait, fate: Fate, message: str) -> None:
    server.endings = [Frame("FAILED", until("rl", rl=fate))]
    ended, words = wait()
    assert (ended, message in words, "hunter2" in words) == (12, True, False), words


DRIVER = "F1128 main.go:79] failed to execute component\nFATAL: cannot resolve the input settings\n"


@pytest.mark.usefixtures("no_rights")
def test_a_driver_that_fails_says_why_too(server: Double, wait: Wait) -> None:
    """Kubeflow's own pod before each task: the task is then omitted, and nothing of ours has said a word."""
    fate = Fate("FAILED", driver="Failed", exit_code=1, log=DRIVER)
    server.endings = [Frame("FAILED", until("sft", sft=fate))]
    ended, words = wait()
    assert (ended, len(server.runs)) == (12, 1)
    assert "Kubeflow's driver of sft: FATAL: cannot resolve the input settings (exit code 1)" in words


@pytest.mark.usefixtures("no_rights")
def test_a_run_that_failed_after_its_promotion_says_both(server: Double, wait: Wait) -> None:
    """Kubeflow calls a run failed whose closing task failed; production has moved all the same."""
    nodes = ALL | {"gate": says(better=True, wanted=True, promoted=True)}
    server.endings = [Frame("FAILED", nodes | {"report": Fate("FAILED", exit_code=137)})]
    ended, words = wait()
    assert (ended, "its adapter was promoted before that" in words) == (12, True), words
    server.endings = [Frame("FAILED", until("sft", sft="FAILED"))]
    assert "promoted" not in wait()[1]


def test_a_run_that_failed_after_its_promotion_says_so_by_the_records_where_no_log_is_left(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endings = [Frame("FAILED", ALL | {"report": Fate("FAILED", exit_code=137)})]
    outcome = {"better": True, "wanted": True, "promoted": True}
    monkeypatch.setattr(submission, "recorded_outcome", lambda ledger: outcome)
    ended, words = wait()
    assert (ended, "its adapter was promoted before that" in words) == (12, True), words


def test_without_a_report_in_the_store_the_records_of_gate_and_promote_say_it(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the store took the records and then nothing more."""
    server.endings = [DONE, DONE, DONE]
    found: dict[str, bool] = {"better": True, "wanted": True}
    monkeypatch.setattr(submission, "recorded_outcome", lambda ledger: dict(found))
    assert wait()[0] == 13, "promote was asked for, and nothing says that it was done"
    found["promoted"] = True
    assert "better, promoted" in wait()[1]
    found = {"better": False, "wanted": False}
    assert wait()[0] == 10


@pytest.mark.usefixtures("no_rights")
def test_a_run_whose_report_was_stopped_is_started_again_and_tells_its_promotion(server: Double, submit: Call) -> None:
    """The second one judges the same two versions (`incumbent_for`), so it comes out as the first did."""
    gate = says(better=True, wanted=True, promoted=True)
    stopped = Frame("FAILED", ALL | {"gate": gate, "report": STOPPED[0]})
    server.endings = [stopped, Frame("SUCCEEDED", ALL | {"report": says(better=True, wanted=True, promoted=True)})]
    ended, words = submit("--wait")
    assert (ended, len(server.runs), "better, promoted" in words) == (0, 2, True), words
    server.endings = [stopped]
    ended, words = submit("--wait", "--resubmit", "0")
    assert (ended, "its adapter was promoted before that" in words) == (12, True), words


def test_what_a_stage_wrote_down_comes_before_its_log(server: Double, wait: Wait, tmp_path: Path) -> None:
    server.endings = [Frame("FAILED", FAILED_SFT)]
    Ledger(open_store(tmp_path), "run-0").write_error("sft", "the loss is infinite")
    assert "sft: the loss is infinite;" in wait()[1]


STOPPED = [
    Fate("FAILED", exit_code=143),
    Fate("FAILED", message="pod deleted during operation"),
    Fate("FAILED", message="Pod was terminated in response to imminent node shutdown."),
    Fate("FAILED", exit_code=137, message="The node was low on resource: memory. Threshold quantity: 100Mi."),
    Fate("FAILED", exit_code=137, message="Preempted in order to admit critical pod"),
    Fate("FAILED", message="Pod was rejected: The node had condition: [DiskPressure]. "),
    Fate("FAILED", message="Pod was rejected: Pod was rejected as the node is shutting down."),
    Fate("FAILED", message="Pod was rejected: Allocate failed due to no healthy devices present, which is unexpected"),
    Fate("FAILED", message="Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 100"),
    Fate("FAILED", message="Pod was rejected: Predicate NodeAffinity failed"),
]
"""Argo 4.0.5, workflow/controller/operator.go: podReconciliation ("pod deleted") and inferFailedReason, which repeats
the message of the kubelet. In Kubernetes' pkg/kubelet: nodeshutdown, eviction/helpers.go (the message of an evicted pod
does not have that word in it), preemption/preemption.go, lifecycle/predicate.go, and kubelet.go, rejectPod."""


STOPPED_DRIVER = Fate("FAILED", driver="Failed", exit_code=143)


@pytest.mark.parametrize(("fate", "who"), [*((one, "rl") for one in STOPPED), (STOPPED_DRIVER, "driver of rl")])
@pytest.mark.usefixtures("no_rights")
def test_a_stopped_task_is_distinguished_and_its_run_started_again_twice(
    server: Double, submit: Call, fate: Fate, who: str
) -> None:
    stopped = Frame("FAILED", until("rl", rl=fate))
    server.endings = [stopped, stopped, stopped]
    ended, words = submit("--wait")
    assert (ended, len(server.runs)) == (12, 3)
    assert f"{who} was stopped from outside" in words
    server.endings = [stopped, Frame("SUCCEEDED", ALL | {"report": says(better=False)})]
    assert submit("--wait")[0] == 10
    server.endings = [stopped]
    count = len(server.runs)
    assert submit("--wait", "--resubmit", "0")[0] == 12
    assert len(server.runs) == count + 1


@pytest.mark.parametrize(
    "message",
    ["OOMKilled (exit code 137)", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi".', "Error (exit code 1)"],
)
@pytest.mark.usefixtures("no_rights")
def test_a_pod_beyond_its_own_limits_has_failed_by_itself(server: Double, submit: Call, message: str) -> None:
    server.endings = [Frame("FAILED", until("rl", rl=Fate("FAILED", message=message)))]
    assert (submit("--wait")[0], len(server.runs)) == (12, 1)


@pytest.mark.usefixtures("no_rights")
def test_a_run_with_a_stopped_and_a_failed_task_has_failed(server: Double, wait: Wait) -> None:
    nodes = until("score-system1", score_system1=STOPPED[0], score_system2=Fate("FAILED", exit_code=4))
    server.endings = [Frame("FAILED", nodes)]
    assert (wait()[0], len(server.runs)) == (12, 1)
