"""A followed run of which nothing is heard: tasks that do not start, details that stand still, a run that is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from lorapar.errors import UnreachableError
from lorapar.kubeflow import follow, submission
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Fate
from tests.kubeflow.conftest import Call
from tests.kubeflow.followed import ALL, Wait, says, until


@pytest.mark.usefixtures("no_rights", "quiet")
def test_a_task_that_does_not_start_is_reported_with_what_it_asks_for(server: Double, wait: Wait) -> None:
    waiting = Frame("RUNNING", until("sft", sft="PENDING"))
    server.endings = [[waiting, waiting, waiting, Frame("FAILED", until("sft", sft="FAILED"))]]
    words = wait()[1]
    assert words.count("sft (asks for 1 nvidia.com/gpu) has not started") == 1, "once"
    assert "kubectl -n team describe pod lorapar-x7k2p-retry-system-container-impl-" in words


@pytest.mark.usefixtures("no_rights")
def test_a_task_that_does_not_start_is_reported_also_while_others_go_on(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute passes between two questions, and something changes every time."""
    passed = [0.0]

    def sleep(_seconds: float) -> None:
        passed[0] += 30.0

    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=lambda: monotonic() + passed[0], sleep=sleep))
    other = [Fate("RUNNING", log="row 1"), "SUCCEEDED"] * 4
    frames = [Frame("RUNNING", until("init", init=one, score_system2="PENDING")) for one in other]
    server.endings = [[*frames, Frame("FAILED", until("init"))]]
    assert wait()[1].count("score-system2 (asks for 1 nvidia.com/gpu) has not started after 2 min") == 1


@pytest.mark.usefixtures("no_rights", "quiet")
def test_argos_own_word_on_a_pending_pod_is_repeated(server: Double, wait: Wait) -> None:
    fate = Fate("PENDING", message="Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
    waiting = Frame("RUNNING", until("sft", sft=fate))
    server.endings = [[waiting, waiting, Frame("FAILED", until("sft", sft="FAILED"))]]
    assert "min: Unschedulable: 0/3 nodes are available: 3 Insufficient" in wait()[1]


@pytest.mark.usefixtures("no_rights", "quiet")
def test_a_driver_that_does_not_start_is_reported_too(server: Double, wait: Wait) -> None:
    """Kubeflow 2.17.0 runs one before each task (backend/src/v2/compiler/argocompiler/container.go)."""
    fate = Fate("PENDING", driver="Pending", message="Unschedulable: 0/1 nodes are available: 1 Too many pods")
    waiting = Frame("RUNNING", until("sft", sft=fate))
    server.endings = [[waiting, waiting, Frame("FAILED", until("sft", sft="FAILED"))]]
    words = wait()[1]
    assert words.count("Kubeflow's driver of sft has not started after") == 1
    assert "1 Too many pods; look at `kubectl -n team describe pod lorapar-x7k2p-system-container-driver-" in words
    assert "nvidia.com/gpu" not in words.partition("Kubeflow's driver")[2].partition("\n")[0]


@pytest.mark.usefixtures("no_rights", "quiet")
def test_without_the_workflow_it_says_what_to_look_at(server: Double, wait: Wait) -> None:
    waiting = Frame("RUNNING", until("sft", sft="PENDING"))
    server.endings = [[waiting, waiting, Frame("FAILED", until("sft", sft="FAILED"))]]
    server.hands_out_workflows = False
    words = wait()[1]
    assert "sft (asks for 1 nvidia.com/gpu) is not done yet" in words
    assert "kubectl describe pod -l pipeline/runid=run-0" in words


@pytest.mark.usefixtures("no_rights", "quiet")
def test_details_that_stand_still_are_reported_once_and_the_rest_followed(server: Double, wait: Wait) -> None:
    log = Fate("RUNNING", log="step 1")
    server.endings = [
        [
            Frame("RUNNING", until("tally-first", tally_first=log)),
            *[Frame("RUNNING", until("sft", sft=log), packed=True)] * 3,
            Frame("SUCCEEDED", ALL | {"report": says(better=False)}, packed=True),
        ]
    ]
    ended, words = wait()
    assert (ended, words.count("task states have stopped changing")) == (10, 1), words
    assert "partition: succeeded" in words
    assert "sft: running" in words


@pytest.mark.usefixtures("quiet")
def test_without_the_workflow_the_store_shows_that_details_stand_still(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hands_out_workflows = False
    monkeypatch.setattr(submission, "node_outcomes", lambda ledger: {"plan": "SUCCEEDED", "init": "SUCCEEDED"})
    still = Frame("RUNNING", {"plan": "SUCCEEDED", "init": "RUNNING"})
    server.endings = [[still, still, still, Frame("FAILED", still.nodes)]]
    words = wait()[1]
    assert words.count("the store has results of tasks that it shows as unfinished") == 1
    assert "init: succeeded" in words


@pytest.mark.usefixtures("no_rights", "quiet")
@pytest.mark.parametrize("says_500", [False, True])
def test_a_run_whose_workflow_is_gone_ends_the_waiting(server: Double, wait: Wait, says_500: bool) -> None:
    """Kubeflow goes on calling it running: nothing tells its database that the Workflow was deleted."""
    server.says_500_for_logs = says_500
    server.endings = [Frame("RUNNING", until("rl", rl=Fate("RUNNING")))]
    ended, words = wait()
    assert ended == 14
    assert "is gone: its workflow was deleted" in words
    assert "during rl" in words
    assert re.search(r"^ *rl +gone", words[words.rindex("stage ") :], re.MULTILINE)


@pytest.mark.usefixtures("no_rights", "quiet")
@pytest.mark.parametrize(
    ("minutes", "phase", "waits", "code"),
    [
        (59, "Running", "", 10),
        (61, "Running", "", 14),
        (61, "Succeeded", "", 10),
        (61, "Running", "suspended", 10),
        (61, "Running", "for the next try", 10),
    ],
)
def test_a_workflow_that_was_deleted_between_two_pods_is_gone_too(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch, minutes: int, phase: str, waits: str, code: int
) -> None:
    """No pod is at work, so none can be asked for; Argo makes the next one within seconds of the last one's end,
    unless the Workflow is suspended or a task waits to be tried again.
    """
    real = server._workflow

    def older(run: str) -> Any:
        found = real(run)
        manifest = json.loads(found["pipeline_runtime"]["workflow_manifest"])
        manifest["status"]["phase"] = phase
        for node in manifest["status"]["nodes"].values():
            ended = f"{datetime.now(UTC) - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"
            node |= {"startedAt": ended, "finishedAt": ended}
        if waits == "suspended":
            manifest["spec"]["suspend"] = True
        elif waits:
            retried = {"type": "Retry", "phase": "Running", "message": "Backoff for 1 hour 4 minutes"}
            manifest["status"]["nodes"]["retried"] = {"id": "retried", "name": "retried", **retried}
        found["pipeline_runtime"]["workflow_manifest"] = json.dumps(manifest)
        return found

    monkeypatch.setattr(server, "_workflow", older)
    between = Frame("RUNNING", until("rl"))
    server.endings = [[*[between] * 6, Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]
    assert wait()[0] == code


@pytest.fixture
def made_before(server: Double, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let Workflows have been made so many minutes ago, with some other changes."""

    def change(minutes: int, **changes: Any) -> None:
        real = server._workflow

        def older(run: str) -> Any:
            found = real(run)
            manifest = json.loads(found["pipeline_runtime"]["workflow_manifest"])
            moment = f"{datetime.now(UTC) - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"
            manifest["metadata"]["creationTimestamp"] = moment
            for where, value in changes.items():
                manifest[where] |= value
            found["pipeline_runtime"]["workflow_manifest"] = json.dumps(manifest)
            return found

        monkeypatch.setattr(server, "_workflow", older)

    return change


POSTPONED = "Workflow processing has been postponed because too many workflows are already running"


@pytest.mark.usefixtures("no_rights", "quiet")
@pytest.mark.parametrize(
    ("minutes", "changes", "code"),
    [
        (59, {}, 10),
        (61, {}, 14),
        (61, {"status": {"phase": "Running"}}, 14),
        (61, {"status": {"phase": "Pending", "message": POSTPONED}}, 10),
        (61, {"spec": {"suspend": True}}, 10),
    ],
    ids=["not yet", "never looked at", "looked at", "waits for its turn", "suspended"],
)
def test_a_workflow_that_was_deleted_before_its_first_pod_is_gone_too(
    server: Double, wait: Wait, made_before: Callable[..., None], minutes: int, changes: dict[str, Any], code: int
) -> None:
    """Nothing tells Kubeflow's database of it: the object stays there as it was made, without a status (api_double.py).

    Argo makes the first pod within seconds, unless the Workflow is suspended or waits for its turn (Argo 4.0.5,
    workflow/controller/controller.go). A controller that is down looks the same, which is said too.
    """
    made_before(minutes, **changes)
    before = Frame("PENDING", begun=False)
    server.endings = [[*[before] * 6, Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]
    ended, words = wait()
    assert ended == code, words
    assert "the run has no pod yet after " in words
    assert "look at `kubectl -n team describe workflow lorapar-x7k2p`: " in words
    assert (POSTPONED in words) == ("message" in changes.get("status", {}))
    if code == 14:
        assert "is considered gone: it has had no pod for 60 min" in words
        assert "`kubectl -n team get workflow lorapar-x7k2p` says which) before its first task" in words


@pytest.mark.parametrize(("minutes", "state"), [(59, "pending"), (61, "gone")])
def test_a_run_that_never_began_is_reported_as_gone_in_the_list_and_keeps_no_equal_one_from_starting(
    server: Double, call: Call, submit: Call, made_before: Callable[..., None], minutes: int, state: str
) -> None:
    made_before(minutes)
    server.endings = [Frame("PENDING", begun=False), Frame("PENDING", begun=False)]
    submit("--if-changed")
    server.show("run-0")
    assert state in call("runs")[1]
    submit("--if-changed")
    assert len(server.runs) == (1 if state == "pending" else 2)


@pytest.mark.usefixtures("no_rights")
def test_a_server_that_does_not_answer_for_long_while_a_run_is_followed_is_reported(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += 25.0
        server.refuse = 503 if 25.0 <= passed[0] < 200.0 else None

    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=lambda: monotonic() + passed[0], sleep=sleep))
    server.endings = [[Frame("RUNNING", until("rl")), Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]
    ended, words = wait()
    assert ended == 10, words
    lines = [line for line in words.splitlines() if "Kubeflow failed (503" in line]
    assert 3 <= len(lines) <= 5, words
    assert "no answer for 50 s; asking again, for up to 10 min" in lines[0]


@pytest.mark.usefixtures("no_rights", "quiet")
def test_a_task_whose_pod_a_quota_does_not_admit_is_not_taken_for_gone(server: Double, wait: Wait) -> None:
    """Argo 4.0.5, workflow/controller/operator.go, createWorkflowPod: the node is Pending and there is no pod."""
    message = 'pods "rl" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=1'
    waiting = Frame("RUNNING", until("rl", rl=Fate("PENDING", message=message, made=False)))
    server.endings = [[*[waiting] * 6, Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]
    ended, words = wait()
    assert (ended, "exceeded quota" in words) == (10, True), words


@pytest.mark.usefixtures("quiet")
def test_a_run_whose_workflow_was_deleted_after_its_report_is_reported_as_the_report_has_it(
    server: Double, wait: Wait, kept: Callable[..., None]
) -> None:
    """As by somebody who clears up before Kubeflow has heard of the end."""
    outcome = {"succeeded": True, "cancelled": False, "better": True, "wanted": True, "promoted": True}
    kept("outcome.json", json.dumps(outcome))
    server.endings = [Frame("RUNNING", until("report", report=Fate("RUNNING")))]
    ended, words = wait()
    assert (ended, "better, promoted" in words) == (0, True), words


@pytest.mark.usefixtures("no_rights")
def test_a_run_that_was_cancelled_after_its_promotion_says_both(server: Double, wait: Wait) -> None:
    nodes = ALL | {"gate": says(better=True, wanted=True, promoted=True)}
    server.endings = [Frame("FAILED", nodes | {"report": "FAILED"}, history=("CANCELING",))]
    ended, words = wait()
    assert (ended, "its adapter was promoted before that" in words) == (14, True), words


DELETED = [
    ({"succeeded": True, "better": True, "promoted": True}, 0, "better, promoted"),
    ({"succeeded": True, "better": False}, 10, "not better"),
    ({"succeeded": False, "better": False}, 13, "somebody has deleted it"),
    ({}, 13, "somebody has deleted it"),
]


@pytest.mark.parametrize(("outcome", "code", "message"), DELETED)
def test_a_run_that_somebody_deletes_meanwhile_is_reported_by_its_store_or_not_at_all(
    server: Double, wait: Wait, kept: Callable[..., None], outcome: dict[str, bool], code: int, message: str
) -> None:
    kept("outcome.json", json.dumps(outcome))
    server.endings = [Frame("RUNNING", until("rl", rl=Fate("RUNNING")))]
    server.answers_before_404 = 1
    ended, words = wait()
    assert (ended, message in words) == (code, True), words


@pytest.mark.usefixtures("no_rights")
@pytest.mark.parametrize("status", [404, 408, 429, 503])
def test_an_answer_that_a_gateway_gives_once_ends_no_waiting(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    asked, real = [], server.show

    def show(run: str) -> Any:
        asked.append(run)
        server.refuse = status if len(asked) == 2 else None
        if server.refuse:
            raise PermissionError
        return real(run)

    monkeypatch.setattr(server, "show", show)
    server.endings = [[Frame("RUNNING", until("rl")), Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]

    def ask_again(seconds: float) -> None:
        server.refuse = None

    monkeypatch.setattr(follow.time, "sleep", ask_again)
    assert wait()[0] == 10


@pytest.mark.usefixtures("no_rights", "quiet")
def test_a_long_task_is_not_taken_for_gone(server: Double, wait: Wait) -> None:
    training = Frame("RUNNING", until("rl", rl=Fate("RUNNING", log="step 100")))
    server.endings = [[*[training] * 6, Frame("SUCCEEDED", ALL | {"report": says(better=False)})]]
    assert wait()[0] == 10


@pytest.mark.usefixtures("quiet")
def test_a_store_that_does_not_answer_is_not_asked_at_every_step(
    server: Double, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer a question takes a minute."""
    asked = []

    def silent(address: str) -> None:
        asked.append(address)
        raise UnreachableError(f"{address}: did not answer")

    monkeypatch.setattr(submission, "open_store", silent)
    training = Frame("RUNNING", until("rl", rl=Fate("RUNNING", log="step 100")), packed=True)
    server.endings = [[*[training] * 9, Frame("SUCCEEDED", ALL | {"report": says(better=False)}, packed=True)]]
    assert wait()[0] == 10
    assert len(asked) == 2, "once while it goes on, once at its end"
