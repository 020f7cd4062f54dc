"""Killed at any moment, in any stage, and started again, a run ends with the bytes of one that was never interrupted.

Each run works against a real S3 server with a prefix of its own. Half of them go on in their own run folder, the
others in a new one that shares nothing with it but the store, as on another machine. The moments are drawn at random;
the seed is printed, and LORAPAR_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorapar.errors import ExitCode
from lorapar.local.folder import RunFolder
from lorapar.stages.contract import is_cached, stage_spec
from lorapar.stages.graph import GRAPH
from tests.integration.s3_server import S3Server
from tests.warm import Run, WarmCommand

SEED = int(os.environ.get("LORAPAR_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
KILLS = int(os.environ.get("LORAPAR_TEST_KILLS", "30"))
NODES = [node.name for node in GRAPH]
SAME = [
    (node.name, output)
    for node in GRAPH
    if is_cached(node.stage) and node.stage not in ("evaluate", "execute")  # those hold seconds
    for output in stage_spec(node.stage).outputs
]
"""Outputs whose every byte must be the same; those of the others say when they were made, or how long it took."""


@dataclass(frozen=True)
class Moment:
    """A moment of a run: so many seconds after a node has begun."""

    node: str
    seconds: float


def moments(count: int, whole: Path, seed: int) -> list[Moment]:
    """Random moments, the nodes in turn, so that each of them has its share."""
    generator = random.Random(seed)
    records = RunFolder(whole).records()
    nodes = [name for name in NODES if name in records]  # promotion is not among them where nothing was better
    order = [nodes[number % len(nodes)] for number in range(count)]
    return [Moment(node, generator.uniform(0.0, records[node].seconds)) for node in order]


@pytest.mark.timeout(1800)
def test_killed_at_random_moments_every_run_ends_with_the_same_bytes(
    command: WarmCommand, arguments: list[str], whole: Path, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    print(f"\nLORAPAR_TEST_SEED={SEED}")
    different = []
    for number, moment in enumerate(moments(KILLS, whole, SEED)):
        root, store = tmp_path / str(number), f"s3://{s3_bucket}/run-{number}"
        root.mkdir()
        run = command.start(*arguments, "--out", root / "run", "--store", store, log=root / "log")
        reach(run, root / "run", moment)
        run.send(signal.SIGKILL)
        assert run.wait() in (-signal.SIGKILL, 0), (root / "log").read_text()
        folder = root / ("run" if number % 2 else "another")
        code = command.start(*arguments, "--out", folder, "--store", store, log=root / "log").wait()
        assert code == 0, (root / "log").read_text()
        different += [f"run {number}, killed {moment}: {what}" for what in differences(folder, whole)]
        assert not left_over(s3_server, s3_bucket, f"run-{number}/checkpoints/")
    assert not different, f"LORAPAR_TEST_SEED={SEED}\n" + "\n".join(different)


@pytest.mark.timeout(1200)
def test_sigterm_ends_a_run_with_its_code_and_another_machine_goes_on(
    command: WarmCommand, arguments: list[str], whole: Path, s3_bucket: str, tmp_path: Path
) -> None:
    print(f"\nLORAPAR_TEST_SEED={SEED}")
    stages = ["sft", "rl", "vote-first", "evaluate"]
    generator = random.Random(SEED + 1)
    for number, node in enumerate(stages):
        seconds = generator.uniform(0.0, RunFolder(whole).records()[node].seconds)
        root, store = tmp_path / str(number), f"s3://{s3_bucket}/stopped-{number}"
        root.mkdir()
        run = command.start(*arguments, "--out", root / "run", "--store", store, log=root / "log")
        reach(run, root / "run", Moment(node, seconds))
        asked = time.monotonic()
        run.send(signal.SIGTERM)
        code, grace = run.wait(), time.monotonic() - asked
        assert code == ExitCode.TERMINATED, (root / "log").read_text()
        assert grace < 20, f"{grace:.1f} s of the 30 s that Kubernetes gives"
        assert "run the same command again to continue" in (root / "log").read_text()
        code = command.start(*arguments, "--out", root / "another", "--store", store, log=root / "log").wait()
        assert code == 0, (root / "log").read_text()
        assert differences(root / "another", whole) == []


def test_a_run_terminated_while_it_tunes_goes_on_after_that_very_step(
    command: WarmCommand, arguments: list[str], whole: Path, s3_bucket: str, tmp_path: Path
) -> None:
    seldom = [*arguments, "--set", "checkpoint.interval_seconds=3600", "--store", f"s3://{s3_bucket}/seldom"]
    run = command.start(*seldom, "--out", tmp_path / "one", log=tmp_path / "log")
    history = _wait_for(run, tmp_path / "one", "work/sft-*/scratch/history.jsonl")
    while not history.read_text():
        time.sleep(0.001)
    run.send(signal.SIGTERM)
    assert run.wait() == ExitCode.TERMINATED, (tmp_path / "log").read_text()
    steps = len(history.read_text().splitlines())
    code = command.start(*seldom, "--out", tmp_path / "two", log=tmp_path / "log2").wait()
    assert code == 0
    assert f"sft: going on after step {steps}\n" in (tmp_path / "log2").read_text()
    assert differences(tmp_path / "two", whole) == []


def reach(run: Run, folder: Path, moment: Moment) -> None:
    """Wait until a run is at a moment, or has finished the node: it may be faster than the run that was timed."""
    working = _wait_for(run, folder, f"work/{moment.node}-*")
    end = time.monotonic() + moment.seconds
    while time.monotonic() < end and working.exists():
        time.sleep(0.002)


def _wait_for(run: Run, folder: Path, pattern: str, seconds: float = 120.0) -> Path:
    end = time.monotonic() + seconds
    while True:
        if found := next(folder.glob(pattern), None):
            return found
        assert not run.ended(), run.log.read_text()
        assert time.monotonic() < end, f"no {pattern}: {run.log.read_text()}"
        time.sleep(0.002)


def differences(folder: Path, whole: Path) -> list[str]:
    """Outputs that are not as in the whole run, and files of the published adapter whose bytes are not."""
    mine, theirs = RunFolder(folder).records(), RunFolder(whole).records()
    found = [f"{node}.{out}" for node, out in SAME if mine[node].outputs[out] != theirs[node].outputs[out]]
    names = sorted(path.relative_to(whole / "adapter") for path in (whole / "adapter").rglob("*") if path.is_file())
    assert Path("adapter_model.safetensors") in names
    return found + [
        f"adapter/{name}"
        for name in names
        if (folder / "adapter" / name).read_bytes() != (whole / "adapter" / name).read_bytes()
    ]


def left_over(server: S3Server, bucket: str, prefix: str) -> list[str]:
    """Keys below a prefix."""
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for entry in listed.get("Contents", ())]
