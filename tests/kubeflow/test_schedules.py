"""Schedules in Kubeflow and the runs they have started."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorapar.kubeflow.server import Server
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Fate
from tests.kubeflow.conftest import STORE, Call

GOING = Frame("RUNNING", {"plan": "SUCCEEDED", "init": Fate("RUNNING", log="layer 1")})


@pytest.fixture
def nightly(server: Double, call: Call) -> str:
    """A recurring run; its id."""
    assert call("schedule", "0 0 3 * * *", "--preset", "tiny", "--store", STORE, "--name", "nightly")[0] == 0
    return next(iter(server.recurring))


def test_a_schedule_is_not_deleted_while_a_run_of_it_is_going(server: Double, call: Call, nightly: str) -> None:
    """On the real thing the Workflow belongs to the ScheduledWorkflow and goes with it, pods and all.

    Kubeflow 2.17.0, backend/src/crd/controller/scheduledworkflow/util/scheduled_workflow.go, OwnerReferences.
    """
    run = server.fire(nightly, GOING)
    code, message = call("schedules", "delete", "nightly")
    assert (code, run.run_id in message, "--now" in message) == (2, True, True)
    assert server.recurring[nightly].status == "DISABLED", "it starts nothing more"
    assert server.killed == []
    run.state = "SUCCEEDED"
    assert call("schedules", "delete", "nightly")[0] == 0
    assert (server.recurring, server.killed) == ({}, [])


@pytest.mark.parametrize("state", ["RUNNING", "CANCELING"])
def test_a_schedule_is_deleted_though_kubeflow_shows_a_run_of_it_whose_workflow_is_gone(
    server: Double, call: Call, nightly: str, state: str
) -> None:
    """Such a run is shown as going on for ever, so that nobody could delete the schedule but with --now."""
    run = server.fire(nightly, Frame(state, GOING.nodes))
    server.gone.add(run.run_id)
    assert call("schedules", "delete", "nightly")[0] == 0
    assert server.recurring == {}


@pytest.mark.parametrize(
    ("frame", "gone", "word"),
    [(GOING, True, "gone"), (Frame("FAILED", GOING.nodes, history=("CANCELING",)), False, "cancelled")],
)
def test_deleting_a_schedule_writes_the_summary_of_its_run_that_somebody_ended(
    server: Double, call: Call, nightly: str, tmp_path: Path, frame: Frame, gone: bool, word: str
) -> None:
    run = server.fire(nightly, frame)
    server.gone |= {run.run_id} if gone else set()
    code, message = call("schedules", "delete", "nightly")
    assert (code, f"summary of the {word} run: {STORE}/runs/{run.run_id}/summary.md" in message) == (0, True), message
    assert (tmp_path / "runs" / run.run_id / "summary.md").read_text().startswith("# Cancelled")


def test_a_run_that_starts_between_looking_and_deleting_is_left_alone(
    server: Double, call: Call, nightly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fire(nightly, GOING)
    monkeypatch.setattr(Server, "runs_of", lambda self, schedule: [])
    assert call("schedules", "delete", "nightly")[0] == 0
    assert server.killed == []


def test_now_deletes_the_schedule_and_its_run_which_is_reported_as_gone(
    server: Double, call: Call, nightly: str, tmp_path: Path
) -> None:
    """Kubeflow shows such a run as running for ever."""
    run = server.fire(nightly, GOING)
    assert "running" in call("runs")[1]
    assert call("schedules", "delete", "nightly", "--now")[0] == 0
    assert server.killed == ["nightly-1"]
    message = call("runs")[1]
    assert ("gone" in message, "running" in message) == (True, False)
    assert (tmp_path / "runs" / run.run_id / "summary.md").read_text().startswith("# Cancelled")


def test_a_run_whose_schedule_left_it_alone_goes_on(server: Double, call: Call, nightly: str) -> None:
    server.fire(nightly, GOING)
    del server.recurring[nightly]
    assert "running" in call("runs")[1]


def test_a_run_that_is_gone_does_not_keep_an_equal_one_from_starting(server: Double, submit: Call) -> None:
    server.endings = [GOING, GOING]
    submit("--if-changed")
    server.show("run-0")
    assert "unchanged since run run-0 (running)" in submit("--if-changed")[1]
    server.gone.add("run-0")
    submit("--if-changed")
    assert len(server.runs) == 2


def test_runs_of_other_pipelines_are_shown_as_kubeflow_has_them(server: Double, call: Call, nightly: str) -> None:
    run = server.fire(nightly, Frame("FAILED", {}, history=("CANCELING",)))
    run.pipeline_version_reference.pipeline_id = "somebody-elses"
    message = call("runs")[1]
    assert ("failed" in message, "summary.md" in message) == (True, False)
