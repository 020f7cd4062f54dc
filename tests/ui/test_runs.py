"""Rows of runs, read from a folder and from a store: states, figures, and what is read again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lorapar.errors import BadInputError
from lorapar.local.live import LiveNode
from lorapar.ui.runs import FolderRuns, Score, StoreRuns, open_runs
from tests.store.s3_in_memory import S3InMemory
from tests.ui.conftest import Make, age, metrics, settings, store_run, write


def test_a_run_folder_in_one_row(root: Path, folder_run: Make) -> None:
    planned = settings(data={"sources": [{"source": "a.jsonl"}, {"source": "b.jsonl"}]})
    folder_run("mine", metrics("first"), planned, LiveNode(node="report", state="finished", ended=True))
    (row,) = open_runs(str(root)).rows()
    assert (row.id, row.name, row.state, row.base, row.data) == (
        "mine",
        "first",
        "finished",
        "org/base",
        "a.jsonl, b.jsonl",
    )
    assert row.scores["system2"] == Score(0.5, 0.75)
    assert (row.verdict, row.seconds, row.seed) == ("better than version 3, promoted", 125.0, 0)


def test_without_references_the_losses_are_shown(root: Path, folder_run: Make) -> None:
    folder_run("mine", metrics("first", accuracy=None))
    assert FolderRuns(root).rows()[0].scores["system1"] == Score(2.0, 1.75, is_loss=True)


@pytest.mark.parametrize(
    ("live", "seconds", "state", "note"),
    [
        (LiveNode(node="rl", title="tuning"), 0, "running", "rl: tuning"),
        (LiveNode(node="sft", state="finished"), 0, "running", "sft"),
        (LiveNode(node="rl", title="tuning"), 7200, "silent", "rl: tuning"),
        (LiveNode(node="sft", state="failed", error="out of memory"), 7200, "failed", "sft: out of memory"),
        (LiveNode(node="report", state="finished", ended=True), 7200, "finished", ""),
        (None, 7200, "silent", ""),
    ],
)
def test_the_state_of_a_run_folder(
    root: Path, folder_run: Make, live: LiveNode | None, seconds: float, state: str, note: str
) -> None:
    age(folder_run("mine", live=live), seconds)
    row = FolderRuns(root).rows()[0]
    assert (row.state, row.note) == (state, note)


@pytest.mark.parametrize(
    ("outcome", "state", "note"),
    [
        ({"succeeded": True}, "finished", ""),
        ({"succeeded": True, "unchanged": "run-1"}, "finished", "nothing changed since run run-1"),
        ({"succeeded": False, "errors": {"rl": "no GPU"}}, "failed", "rl: no GPU"),
        ({"succeeded": None, "cancelled": True}, "cancelled", ""),
        (None, "running", "rl"),
    ],
)
def test_the_state_of_a_run_in_a_store(tmp_path: Path, outcome: dict[str, Any] | None, state: str, note: str) -> None:
    folder = store_run(tmp_path, "abc-123", outcome, metrics("nightly") if outcome else None)
    write(folder / "live" / "rl.json", LiveNode(node="rl").model_dump(mode="json"))
    runs = open_runs(str(tmp_path))
    assert isinstance(runs, StoreRuns)
    (row,) = runs.rows()
    assert (row.id, row.state, row.note, row.base) == ("abc-123", state, note, "org/base")
    assert runs.row("abc-123") == row


def test_the_newest_run_comes_first_and_other_folders_are_none(root: Path, folder_run: Make) -> None:
    age(folder_run("old", metrics("a")), 500)
    folder_run("new", metrics("b"))
    (root / "registry" / "adapters").mkdir(parents=True)
    (root / "notes.txt").write_text("mine", encoding="utf-8")
    assert [row.id for row in FolderRuns(root).rows()] == ["new", "old"]


def test_cells_of_a_study_are_runs(tmp_path: Path) -> None:
    write(tmp_path / "cells" / "theta-0.9" / "run" / "metrics.json", metrics("cell"))
    (tmp_path / "cells" / "theta-0.9" / "run" / "stages").mkdir()
    assert [row.id for row in open_runs(str(tmp_path / "cells")).rows()] == ["theta-0.9"]


@pytest.mark.parametrize("name", ["..", ".", "../secret", "a/b", "", "/etc", "a\\b", "nobody"])
def test_a_name_that_is_no_run_reads_nothing(root: Path, folder_run: Make, name: str) -> None:
    folder_run("mine", metrics("a"))
    write(root.parent / "secret" / "metrics.json", metrics("b"))
    for runs in (FolderRuns(root), open_runs(str(root.parent))):
        assert runs.row(name) is None
        assert runs.report(name) is None
        assert not runs.metrics(name)
        assert not runs.histories(name)


def test_a_report_that_is_a_link_out_of_its_folder_is_not_served(root: Path, folder_run: Make) -> None:
    folder = folder_run("mine", metrics("a"))
    outside = root.parent / "outside.html"
    outside.write_text("secret", encoding="utf-8")
    (folder / "report.html").unlink()
    (folder / "report.html").symlink_to(outside)
    assert FolderRuns(root).report("mine") is None


def test_a_damaged_document_leaves_its_run_in_the_list(root: Path, folder_run: Make) -> None:
    folder = folder_run("mine", metrics("a"))
    for text in ('{"half', "[1]", "", "\x00"):
        (folder / "metrics.json").write_text(text, encoding="utf-8")
        assert [row.id for row in FolderRuns(root).rows()] == ["mine"]


def test_500_runs_of_a_folder_are_listed_in_a_second(
    root: Path, folder_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder_run("run-0", metrics("a"), live=LiveNode(node="report", state="finished", ended=True))
    for number in range(1, 500):
        (root / f"run-{number}").symlink_to(made)
    runs = FolderRuns(root)
    begun = time.process_time()
    assert len(runs.rows()) == 500
    assert time.process_time() - begun < 1.0
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read again"))
    assert len(runs.rows()) == 500


def test_a_store_is_asked_for_what_changed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-the-store"),
        ("AWS_REGION", "r"),
    ):
        monkeypatch.setenv(name, value)
    for number in range(30):
        store_run(tmp_path, f"run-{number}", {"succeeded": True}, metrics("a"))
    with S3InMemory() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        for path in (tmp_path / "runs").rglob("*.json"):
            server.objects[str(path.relative_to(tmp_path))] = path.read_bytes()
        runs = open_runs("s3://bucket")
        server.requests.clear()
        assert len(runs.rows()) == 30
        assert [len(server.of("GET list-type")), len(server.of("GET"))] == [1, 90], "once each, and one listing"
        server.requests.clear()
        runs.rows()
        assert [request.operation for request in server.requests] == ["GET list-type"]
        changed = next(key for key in server.objects if key.endswith("run-3/metrics.json"))
        server.objects[changed] = server.objects[changed].replace(b"org/base", b"org/next")
        server.requests.clear()
        rows = {row.id: row for row in runs.rows()}
        assert rows["run-3"].base == "org/next"
        assert len(server.requests) == 2
        assert not any(request.method not in ("GET", "HEAD") for request in server.requests)


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no such folder"):
        open_runs(str(tmp_path / "nowhere"))
