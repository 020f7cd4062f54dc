"""A run over captured requests that is stopped goes on with the rows it began with, and a deletion still wins."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from lorapar.capture import Capture, request_digest
from lorapar.capture.records import Feedback
from lorapar.config import RunConfig
from lorapar.config.load import load_config
from lorapar.data.taskmix import generate_task_mix
from lorapar.local.folder import RunFolder
from lorapar.local.runner import run_local
from lorapar.progress import Silent
from lorapar.records import Example, read_json, read_records
from lorapar.store import open_store
from tests.capture.conftest import NOW, asked
from tests.conftest import run_cli


def of_both_kinds() -> list[tuple[str, str]]:
    """Questions with answers, those of the two systems by turns, so that a vote has something for each."""
    rows = generate_task_mix(system1_train=20, system1_heldout=0, system2_train=20, system2_heldout=0, seed=0)
    pairs = zip(rows[:20], rows[20:], strict=True)
    return [(str(row["question"]), str(row["answer"])) for pair in pairs for row in pair]


MIX = of_both_kinds()


class Recorder(Silent):
    """Keeps what a stage says."""

    lines: list[str]

    def log(self, text: str) -> None:
        self.lines.append(text)


def praised(capture: Capture, first: int, count: int, later: timedelta = timedelta()) -> None:
    """Requests whose answers a person has praised, written that much later."""
    rows = [asked(f"request-{n:03d}", *MIX[n]) for n in range(first, first + count)]
    capture.write(rows, NOW + later)
    capture.write([Feedback(request_id=row.request_id, captured_at=NOW, good=True) for row in rows], NOW + later)


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    made = Capture(open_store(tmp_path / "store"), "support")
    praised(made, 0, 20)
    return made


def overrides(capture: Capture) -> list[str]:
    return [
        "data.source=capture:support",
        f"data.capture={{address: {capture.store.address}, near_duplicates: 1, max_per_cluster: null}}",
        *("data.heldout=4", "data.columns={reference_pattern: '(?:<answer>)?([^<>]+)(?:</answer>)?$'}"),
    ]


def settings(capture: Capture, *more: str) -> RunConfig:
    return load_config(preset="tiny", overrides=[*overrides(capture), *more])


def prepared(config: RunConfig, out: Path, *, fresh: bool = False) -> tuple[set[str], list[str]]:
    """Ids of the rows that a run comes to, and what it says."""
    message = Recorder()
    message.lines = []
    run_local(config, out, lambda _: nullcontext(message), until="prepare", fresh=fresh)
    examples = read_records(RunFolder(out).artifact("prepare", "examples") / "examples.jsonl", Example)
    return {one.id for one in examples}, message.lines


def ids(*numbers: int) -> set[str]:
    return {request_digest(f"request-{number:03d}") for number in numbers}


def test_run_that_was_stopped_reads_the_same_rows_and_a_deleted_one_is_none(capture: Capture, tmp_path: Path) -> None:
    config, out = settings(capture), tmp_path / "run"
    assert prepared(config, out)[0] == ids(*range(20))
    praised(capture, 20, 5, timedelta(hours=3))
    rows, lines = prepared(config, out)
    assert rows == ids(*range(20))
    assert any(line.startswith("goes on with what capture:support held when this run began") for line in lines)
    assert any("reused" in line for line in lines)
    capture.delete("request-003", NOW)
    rows, lines = prepared(config, out)
    assert rows == ids(*range(20)) - ids(3)
    assert any(line.startswith("runs again: ") for line in lines)
    left = [path for path in out.rglob("*.jsonl") if request_digest("request-003") in path.read_text(encoding="utf-8")]
    assert left == []


def test_other_settings_or_a_fresh_run_take_what_is_there_now(capture: Capture, tmp_path: Path) -> None:
    config, out = settings(capture), tmp_path / "run"
    prepared(config, out)
    praised(capture, 20, 5, timedelta(hours=3))
    assert prepared(settings(capture, "data.capture.max_redactions=9"), out)[0] == ids(*range(25))
    praised(capture, 25, 5, timedelta(hours=6))
    rows, lines = prepared(config, out, fresh=True)
    assert rows == ids(*range(30))
    assert not any("held when this run began" in line for line in lines)


def test_settings_that_a_run_leaves_read_the_same_rows_elsewhere(capture: Capture, tmp_path: Path) -> None:
    prepared(settings(capture), tmp_path / "run")
    first = RunFolder(tmp_path / "run").artifact("prepare", "examples")
    praised(capture, 20, 5, timedelta(hours=3))
    praised(capture, 25, 5, timedelta(minutes=-5))  # of a server whose clock is slow
    again = load_config(file=tmp_path / "run" / "config.yaml")
    assert prepared(again, tmp_path / "again")[0] == ids(*range(20))
    second = RunFolder(tmp_path / "again").artifact("prepare", "examples")
    for name in ("examples.jsonl", "summary.json", "captured_files.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert len(read_json(first / "captured_files.json")["support"]) == 2


def test_run_that_has_come_to_its_end_leaves_the_next_one_free(capture: Capture, tmp_path: Path) -> None:
    out, given = tmp_path / "run", [part for one in overrides(capture) for part in ("--set", one)]
    command = ["--preset", "tiny", *given, "--out", out]
    assert run_cli("run", *command, "--until", "prepare").returncode == 0
    praised(capture, 20, 5, timedelta(hours=3))
    planned = run_cli("plan", *command)
    assert "goes on with what capture:support held when this run began" in " ".join(planned.stdout.split())
    done = run_cli("run", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prepare: reused" in done.stdout
    assert read_json(out / "lineage.json")["data"]["captures"]["support"]["rows"] == 20
    planned = run_cli("plan", *command)
    assert "25 requests of 2026-11-20, 25 rows" in " ".join(planned.stdout.split())
