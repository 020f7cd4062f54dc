"""How long things wait, as the pages say it: other tests make the waits short, and would not notice another number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lorapar.kubeflow import follow, server, submission, waiting
from tests.helm.chart import CHART

DOCS = Path(__file__).resolve().parents[2] / "docs"
KUBEFLOW, INSTALL = DOCS / "kubeflow.md", DOCS / "platform" / "install.md"


def chart_seconds(name: str) -> float:
    """A constant of the script that says whom the chart's Jobs wait for."""
    text = (CHART / "files" / "waiting.py").read_text(encoding="utf-8")
    return float(re.findall(rf"^{name} = ([0-9.]+)$", text, re.MULTILINE)[0])


def words_of(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("page", "said", "seconds"),
    [
        (KUBEFLOW, "Every command that asks Kubeflow prints a line after {:.0f} s", waiting.FIRST_SECONDS),
        (KUBEFLOW, "without an answer, and then every {:.0f} s", waiting.EVERY_SECONDS),
        (KUBEFLOW, "with a line every {:.0f} s", follow.SILENT_SECONDS),
        (INSTALL, "After {:.0f} seconds, and then every", chart_seconds("FIRST_SECONDS")),
        (INSTALL, "and then every {:.0f}, the Job prints what it waits for", chart_seconds("EVERY_SECONDS")),
    ],
)
def test_seconds_in_the_docs_are_those_of_the_code(page: Path, said: str, seconds: float) -> None:
    assert said.format(seconds) in words_of(page)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("after two minutes it ends with 3", server.ANSWER_SECONDS / 2),
        ("Every two minutes `--wait` checks more", follow.QUIET_SECONDS / 2),
        ("the server may be silent for ten minutes", follow.PATIENCE_SECONDS / 10),
        ("or no pod has come for an hour", follow.IDLE_SECONDS / 60),
    ],
)
def test_minutes_in_the_docs_are_those_of_the_code(said: str, seconds: float) -> None:
    assert said in words_of(KUBEFLOW)
    assert seconds == 60


def test_how_often_a_stopped_run_is_started_again() -> None:
    assert "it starts the run again, at most twice" in words_of(KUBEFLOW)
    assert submission.STARTED_AGAIN == 2
