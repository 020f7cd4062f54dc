"""Runs that somebody cancelled: how they are reported, and who writes their summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorapar.errors import UnreachableError
from lorapar.kubeflow import submission
from lorapar.kubeflow.summary import logged_outcome, outcome_line
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.conftest import Call
from tests.kubeflow.followed import Wait, until

CANCELLED = {
    "its history says so": Frame("FAILED", until("rl", rl="FAILED"), history=("RUNNING", "CANCELING")),
    "the workflow says so": Frame("FAILED", until("rl", rl="FAILED"), deadline=0),
    "it was seen while it was followed": [
        Frame("CANCELING", until("rl", rl="RUNNING")),
        Frame("FAILED", until("rl", rl="FAILED")),
    ],
    "its state says so": Frame("CANCELED", until("rl", rl="FAILED")),
}


@pytest.mark.parametrize("frames", list(CANCELLED.values()), ids=list(CANCELLED))
def test_a_cancelled_run_is_reported_as_cancelled_where_it_was_and_gets_its_summary(
    server: Double, wait: Wait, tmp_path: Path, frames: Any
) -> None:
    server.endings = [frames]
    ended, words = wait()
    assert (ended, len(server.runs)) == (14, 1)
    assert "was cancelled in Kubeflow during rl" in words
    left = json.loads((tmp_path / "runs" / "run-0" / "outcome.json").read_text())
    assert (left["cancelled"], left["succeeded"], left["promoted"]) == (True, False, False)
    assert (tmp_path / "runs" / "run-0" / "summary.md").read_text().startswith("# Cancelled")


def test_the_next_command_that_sees_a_cancelled_run_writes_its_summary(
    server: Double, call: Call, submit: Call, tmp_path: Path
) -> None:
    server.endings = [CANCELLED["its history says so"]]
    submit()
    words = call("runs")[1]
    assert "cancelled" in words
    assert "/runs/run-0/summary.md" in words
    assert (tmp_path / "runs" / "run-0" / "outcome.json").is_file()
    assert "summary.md" not in call("runs")[1], "once"


def test_a_submission_that_looks_for_an_equal_run_writes_the_summary_of_a_cancelled_one(
    server: Double, submit: Call, tmp_path: Path
) -> None:
    server.endings = [CANCELLED["its history says so"]]
    submit("--if-changed")
    assert "summary of the cancelled run: s3://bucket/lorapar/runs/run-0/summary.md" in submit("--if-changed")[1]
    assert len(server.runs) == 2
    assert (tmp_path / "runs" / "run-0" / "outcome.json").is_file()


def test_a_store_that_takes_no_summary_is_not_asked_for_the_next_run(
    server: Double, submit: Call, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endings = [CANCELLED["its history says so"]] * 2
    submit()
    submit()
    asked = []

    def refused(address: str) -> None:
        asked.append(address)
        raise UnreachableError(f"{address}: refused (403 AccessDenied)")

    monkeypatch.setattr(submission, "open_store", refused)
    assert call("runs")[1].count("cancelled") == 2
    assert len(asked) == 1


@pytest.mark.usefixtures("no_rights")
def test_a_cancelled_run_is_reported_without_rights_in_the_store(server: Double, submit: Call, call: Call) -> None:
    server.endings = [CANCELLED["the workflow says so"]]
    assert submit("--wait")[0] == 14
    assert call("runs")[0] == 0


def test_an_outcome_is_read_from_the_lines_made_for_it_and_from_no_others() -> None:
    log = f"better: yes\n{outcome_line({'better': True})}\nlorapar outcome: [1]\nlorapar outcome: nonsense\n"
    assert logged_outcome(log) == {"better": True}
