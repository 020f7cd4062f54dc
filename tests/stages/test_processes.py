"""Training in several processes ends as one process ends, whatever happens in one, and goes on with any number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, RlConfig, SftConfig
from lorapar.errors import ExitCode, StorageError, TrainingError
from lorapar.stages import processes
from lorapar.stages.contract import Origin, StageCall
from lorapar.stopping import StopRequest
from lorapar.tracking import Tracking

# The reward of the second process ends that process in its third step.
REWARD = """
import os, signal

calls = 0

def faulty(completions, references):
    global calls
    calls += 1
    if os.environ.get("RANK") == "1" and calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
STEPS = 6
RL = {
    "batch_size": 2, "gradient_accumulation": 4, "num_generations": 4, "max_steps": STEPS, "epochs": 99,
    "max_prompt_length": 200, "max_completion_length": 4, "rewards": {"faulty_reward:faulty": 1.0},
}  # fmt: skip


def test_a_process_that_is_killed_ends_all_and_the_next_run_goes_on_with_one(
    kit, adapter: Path, partition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty_reward.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    inputs = {
        "adapter": adapter,
        "partition": partition,
        "system1": kit.rows_folder(tmp_path / "system1", kit.words(4)),
        "system2": kit.rows_folder(tmp_path / "system2", kit.sums(4)),
    }
    settings = {"model": kit.TINY, "prompts": {}, "rl": RL, "seed": 0}
    keeper = Keeper(CheckpointConfig(interval_seconds=0.0))
    notes = kit.Notes()
    shown = Origin(tracking=Tracking([]))  # has threads, which stay in this process
    killed = r"the training process 1 was killed \(SIGKILL\)"
    with pytest.raises(TrainingError, match=killed):
        kit.run("rl", tmp_path / "rl", settings, inputs, notes, keeper=keeper, processes=2, origin=shown)
    assert "2 processes train together; each takes its part of every step" in notes.lines

    notes = kit.Notes()
    metrics, out = kit.run("rl", tmp_path / "rl", settings, inputs, notes, keeper=keeper, processes=1)
    assert "going on after step 2" in notes.lines
    assert metrics["steps"] == STEPS
    assert len((out / "adapter" / "history.jsonl").read_text().splitlines()) == STEPS


def test_sigterm_is_passed_on_once_to_every_process(tmp_path: Path) -> None:
    waits = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print(flush=True); signal.pause()"
    started = [subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) for _ in range(2)]
    call: StageCall[Any] = StageCall(settings=None, inputs={}, outputs={}, scratch=tmp_path)
    stop = StopRequest()
    listener = processes._Listener(tmp_path, call, stop)
    for rank, process in enumerate(started):
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / f"pid-{rank}").write_text(str(process.pid))
    listener.look()
    assert [process.poll() for process in started] == [None, None]
    stop.requested = True
    listener.look()
    assert [process.wait() for process in started] == [9, 9]
    listener.look()  # they are gone, and nobody else gets the signal


def _control(folder: Path, outcomes: dict[int, dict[str, Any]]) -> Path:
    for rank, outcome in outcomes.items():
        whole = {"exit_code": 0, "of_another": False, "message": "", "time": float(rank), **outcome}
        (folder / f"outcome-{rank}.json").write_text(json.dumps(whole))
    return folder


def failed(exit_code: int, seconds: int = 0) -> Any:
    """What torch's launcher says of a process."""
    return SimpleNamespace(exitcode=exit_code, timestamp=seconds)


def test_the_error_is_that_of_the_process_that_has_one(tmp_path: Path) -> None:
    lost = {"exit_code": ExitCode.BUG, "message": "RuntimeError: connection closed", "time": 0.0}
    control = _control(tmp_path, {0: lost, 1: {"exit_code": ExitCode.STORAGE, "message": "the disk is full"}})
    with pytest.raises(StorageError, match=r"^the disk is full$"):
        processes._concluded(control, {0: failed(1), 1: failed(5)}, StopRequest())


def test_a_failure_counts_more_than_being_asked_to_stop(tmp_path: Path) -> None:
    control = _control(tmp_path, {0: {"exit_code": ExitCode.TRAINING_FAILED, "message": "NaN"}, 1: {"exit_code": 143}})
    with pytest.raises(TrainingError, match="NaN"):
        processes._concluded(control, {0: failed(4), 1: failed(143)}, StopRequest(requested=True))


def test_what_the_launcher_killed_itself_is_not_the_reason(tmp_path: Path) -> None:
    control = _control(tmp_path, {0: {"exit_code": ExitCode.BUG, "message": "KeyError: 'seen'"}})
    with pytest.raises(RuntimeError, match="KeyError: 'seen'"):
        processes._concluded(control, {0: failed(1, 100), 1: failed(-9, 130)}, StopRequest())


@pytest.mark.parametrize(
    ("gpus", "most", "config", "count"),
    [
        (0, None, SftConfig(), 1),
        (0, 2, SftConfig(), 2),
        (4, None, SftConfig(), 4),
        (4, 2, SftConfig(), 2),
        (2, 8, SftConfig(), 2),
        (8, None, RlConfig(batch_size=8, gradient_accumulation=4, num_generations=8), 4),
        (4, None, RlConfig(rollouts="vllm"), 1),
    ],
)
def test_one_process_a_gpu_as_far_as_set_and_dealt_evenly(
    kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, most: int | None, config: Any, count: int
) -> None:
    monkeypatch.setattr("lorapar.training.shares.visible_gpus", lambda: gpus)
    notes = kit.Notes()
    call: StageCall[Any] = StageCall(
        settings=None, inputs={}, outputs={}, scratch=tmp_path, progress=notes, processes=most
    )
    assert processes.process_count(call, config) == count
    wanted = min(most or gpus or 1, gpus or 8)
    assert bool(notes.lines) == (count < wanted)
