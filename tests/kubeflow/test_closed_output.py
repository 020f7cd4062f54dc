"""A task whose output nobody reads any more goes on and saves, in every stage that people wait for.

At SIGTERM Kubeflow's launcher, which reads a task's output, is gone before the stage is (2.17.0, launcher-v2/main.go).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorapar.errors import ExitCode
from lorapar.kubeflow.ledger import Ledger
from lorapar.store import open_store
from tests.benchmarks.recorded_run import SETTINGS, RecordedRuns

STAGES = ("vote-first", "score", "sft", "rl", "evaluate", "publish", "report")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedRuns:
    """A whole run of the preset tiny, and what each of its tasks was started with."""
    runs = RecordedRuns(tmp_path_factory.mktemp("recorded"))
    runs.inputs = {}
    runs.run(config="preset:tiny", overrides=SETTINGS, adapter_name="tiny", parallelism=2)
    return runs


def started(runs: RecordedRuns, stage: str, given: str, scratch: Path) -> subprocess.Popen[bytes]:
    """The task as a process whose output and errors lead nowhere."""
    command = [sys.executable, "-m", "lorapar", "stage", stage, "--executor-input", given, "--store", runs.store]
    own = {"LORAPAR_SCRATCH": str(scratch), "LORAPAR_REUSE": "off", "LORAPAR_RUN": "closed", "OMP_NUM_THREADS": "1"}
    task = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **own, "PYTHONUNBUFFERED": "1"}
    )
    assert task.stdout is not None
    assert task.stderr is not None
    task.stdout.close()
    task.stderr.close()
    return task


@pytest.mark.parametrize("name", STAGES)
def test_a_task_that_nobody_reads_ends_well_and_writes_what_it_made(
    recorded: RecordedRuns, name: str, tmp_path: Path
) -> None:
    given = recorded.inputs[name]
    written = Path(json.loads(given)["outputs"]["outputFile"])
    written.unlink(missing_ok=True)
    if name == "vote-first":
        shutil.rmtree(Path(recorded.store) / "votes")  # so that its teacher is asked
    assert started(recorded, name.removesuffix("-first"), given, tmp_path).wait(300) == 0
    assert json.loads(written.read_text(encoding="utf-8"))


def test_a_failure_that_nobody_reads_has_its_exit_code(recorded: RecordedRuns, tmp_path: Path) -> None:
    given = recorded.inputs["score"].replace('"settings"', '"setings"')
    assert started(recorded, "score", given, tmp_path).wait(60) == ExitCode.BAD_INPUT


@pytest.mark.parametrize("name", ["sft", "rl"])
def test_training_that_nobody_reads_saves_when_it_is_told_to_stop(
    recorded: RecordedRuns, name: str, tmp_path: Path
) -> None:
    given = json.loads(recorded.inputs[name])
    ledger = Ledger(open_store(recorded.store))
    values = given["inputs"]["parameterValues"]
    settings = json.loads(json.dumps(ledger.read_settings(values["settings"])))
    settings[name][name]["max_steps"] = 5000
    values["settings"] = ledger.write_settings(settings)
    before = set(Path(recorded.store).rglob("checkpoints/**/*"))
    task = started(recorded, name, json.dumps(given), tmp_path)
    until = time.monotonic() + 200
    # Of the stage's own folder: what RL goes on from has a history, too, and lies there before anything is trained.
    while not any(path.stat().st_size for path in tmp_path.glob("*/scratch/history.jsonl")):
        assert time.monotonic() < until
        assert task.poll() is None
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    assert task.wait(60) == ExitCode.TERMINATED
    saved = set(Path(recorded.store).rglob("checkpoints/**/*")) - before
    (manifest,) = [path for path in saved if path.name == "00000001.json"]
    names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    assert any(name.startswith("checkpoint-") and name.endswith("/optimizer.safetensors") for name in names)
