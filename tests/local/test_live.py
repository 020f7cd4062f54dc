"""`lorapar watch`: what stages tell while they work, read from a run folder and from a store, and shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer.testing

from lorapar.cli import app
from lorapar.cli.watch import drawn, follow, line_of, sparkline
from lorapar.errors import BadInputError, TrainingError, UnreachableError
from lorapar.kubeflow.ledger import Ledger
from lorapar.local.folder import StageRecord
from lorapar.local.live import LiveProgress, Watcher, live_in_folder, live_in_store
from lorapar.progress import Silent
from lorapar.store import open_store
from lorapar.terminal import LineProgress


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The scratch folder of an RL that has made 30 steps, the last of them with two completions kept."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    steps = [
        {"step": n, "loss": 1.0 / n, "reward": 0.05 * n, "cut_off_share": 0.25, "completion_length": 5.0}
        for n in range(1, 31)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 31, "lo')
    kept = [
        {"step": n, "id": "r", "question": "7 + 5?", "completion": f"[b]{n} {place}\x1b[2J", "tokens": 3,
         "cut_off": place == 1, "reward": None if place else 2.5, "rewards": {"exact_answer": None if place else 1.25}}
        for n in (29, 30) for place in (0, 1)
    ]  # fmt: skip
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


def record(node: str, stage: str) -> StageRecord:
    return StageRecord(node=node, stage=stage, version="1", settings={}, inputs={}, code="c", seconds=3.5)


def everything(root: Path) -> dict[str, int]:
    """Every file below a folder with the time it was written."""
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_run_folder_is_read_while_a_stage_works(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    with live_in_folder(root, "rl", scratch, Silent()) as progress:
        progress.start("tuning on System 2", total=40)
        progress.log("WARNING: in 5 steps on end (1 to 5) every completion was cut off")
        for _ in range(10):
            progress.advance(1, note="reward 1.5")
        progress.log("warning: once more")
        before = everything(root)
        seen = Watcher(str(root)).look()
        assert everything(root) == before, "looking changes nothing"
        assert seen.state == "running"
        (live,) = seen.now
        assert (live.node, live.title, live.done, live.total) == ("rl", "tuning on System 2", 10, 40)
        assert live.seconds_left is not None
        assert len(live.history) == 30, "without the line that is being written"
        assert [line["completion"] for line in live.rollouts] == ["[b]30 0\x1b[2J", "[b]30 1\x1b[2J"], (
            "of the newest step"
        )
        assert [warning[:7] for warning in live.warnings] == ["WARNING", "warning"]
        line = line_of(seen)
        assert (
            "rl: tuning on System 2 10/40, step 30, loss 0.033, reward 1.500, 25% cut off, under a minute left" in line
        )
        states = {node.node: node.state for node in seen.nodes}
        assert states["rl"] == "running"
        assert states["gate"] == "waiting"


def test_a_stage_that_fails_leaves_its_line_without_secrets(tmp_path: Path, scratch: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-value")
    with (
        pytest.raises(TrainingError),
        live_in_folder(tmp_path, "rl", scratch, Silent()),
    ):
        raise TrainingError("the loss became nan at very-secret-value")
    seen = Watcher(str(tmp_path)).look()
    assert seen.state == "failed"
    assert seen.now[0].error == "the loss became nan at [redacted]"
    assert "very-secret-value" not in (tmp_path / "live.json").read_text()


def test_a_run_in_a_store_is_read_while_its_tasks_work(tmp_path: Path, scratch: Path) -> None:
    store = open_store(tmp_path / "store")
    address = str(tmp_path / "store" / "runs" / "run-7")
    ledger = Ledger(store, "run-7")
    ledger.write_record(record("plan", "plan"))
    with live_in_store(store, "run-7", "score-system1", tmp_path, Silent()) as first:
        first.start("scoring", total=5)
    ledger.write_record(record("score-system1", "score"))
    with pytest.raises(TrainingError), live_in_store(store, "run-7", "rl", scratch, Silent()):
        raise TrainingError("out of memory")
    watcher = Watcher(address)
    seen = watcher.look()
    assert seen.state == "running", "Kubeflow may try the task again, and the report is still to come"
    assert [(one.node, one.state, len(one.rollouts)) for one in seen.now] == [("rl", "failed", 2)]
    finished = {node.node: node.seconds for node in seen.nodes if node.state == "finished"}
    assert finished == {"plan": 3.5, "score-system1": 3.5}
    store.write("runs/run-7/metrics.json", b"{}")
    assert watcher.look().state == "failed"
    ledger.write_record(record("rl", "rl"))
    assert watcher.look().state == "finished"
    assert watcher.look().now[0].history[-1]["step"] == 30


def test_a_store_that_is_away_holds_up_no_stage(tmp_path: Path, scratch: Path) -> None:
    asked: list[str] = []

    class Away:
        def write(self, key: str, data: bytes) -> None:
            asked.append(key)
            raise UnreachableError(f"{key}: no answer")

    with live_in_store(Away(), "run-7", "rl", scratch, Silent()) as progress:  # type: ignore[arg-type]
        progress.start("tuning", total=1)
        progress.advance()
    assert asked, "it was tried"
    assert progress.live.done == 1


def test_what_is_reported_is_not_written_for_every_unit(scratch: Path, capsys) -> None:
    written: list[str] = []
    progress = LiveProgress(LineProgress("[rl]"), "rl", scratch, written.append, every_seconds=3600.0)
    progress.start("answering", total=1000)
    for _ in range(999):
        progress.advance()
    assert len(written) == 1
    assert progress.live.done == 999
    assert "[rl] answering (1000)" in capsys.readouterr().out, "everything is passed on"


@pytest.mark.parametrize("address", ["nowhere", "store/runs/run-8", "s3://bucket/prefix"])
def test_what_is_no_run_is_named(tmp_path: Path, monkeypatch, address: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    with pytest.raises(BadInputError, match=address):
        Watcher(address).look()


def test_elsewhere_a_line_a_minute_and_one_at_every_change(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    clock, lines = [0.0], []
    with live_in_folder(root, "rl", scratch, Silent()) as progress:
        progress.start("tuning on System 2", total=40)

        def wait(seconds: float) -> None:
            clock[0] += seconds
            if clock[0] == 130:
                path = root / "live.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "state": "finished", "ended": True}))

        follow(Watcher(str(root)).look, lines.append, wait, lambda: clock[0])
    assert [line.partition(",")[0] for line in lines] == ["running", "running", "running", "finished"]


def test_the_picture_holds_curves_and_completions(tmp_path: Path, scratch: Path) -> None:
    from rich.console import Console

    with live_in_folder(tmp_path, "rl", scratch, Silent()) as progress:
        progress.start("tuning on System 2", total=40)
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(drawn(Watcher(str(tmp_path)).look()))
    text = console.export_text()
    assert "▶ rl" in text
    assert "reward ▁" in text
    assert "completion in step 30" in text
    assert "[b]30 0?[2J" in text, "no markup, and nothing that clears the screen"
    assert "none, cut off" in text
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅  0 to 1"


def test_a_finished_run_tells_its_last_training_and_ends(tiny_run: Path) -> None:
    seen = Watcher(str(tiny_run)).look()
    assert seen.state == "finished"
    assert {node.state for node in seen.nodes} <= {"finished", "waiting"}, "promote may not have run"
    (live,) = seen.now
    assert (live.node, len(live.history)) == ("rl", 2)
    assert live.rollouts[0]["step"] == 2
    result = typer.testing.CliRunner().invoke(app, ["watch", str(tiny_run)], catch_exceptions=False)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith("finished, ")
    assert "step 2, loss" in line
