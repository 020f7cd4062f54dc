"""One warm command for all tests of the folder, led to the S3 server, and the settings of a run in which all learns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.planted import HUB_TOKEN
from tests.integration.s3_server import S3Server
from tests.warm import ONE_THREAD, WarmCommand

# A random model never earns the paper's rewards, and what never learns is the same after any accident.
REWARD = "def parity(completions, references):\n    return [float(sum(map(ord, text)) % 2) for text in completions]\n"
SETTINGS = (
    "checkpoint.interval_seconds=0",
    "sft.max_steps=6",
    "rl.max_steps=4",
    "rl.rewards={parity_reward:parity: 1.0}",
)


@pytest.fixture(scope="session")
def command(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommand]:
    """The `lorapar` command with its imports done, as `admin` of the S3 server."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "parity_reward.py").write_text(REWARD, encoding="utf-8")
    warm = WarmCommand(
        {
            **ONE_THREAD,
            **s3_server.environment(),
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            "HF_TOKEN": HUB_TOKEN,
        }
    )
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def arguments() -> list[str]:
    """Options of the tiny run of these tests, but for --out and --store."""
    return ["run", "--preset", "tiny", *(part for setting in SETTINGS for part in ("--set", setting))]


@pytest.fixture(scope="session")
def whole(command: WarmCommand, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a store that nothing has happened to: what all others must come to."""
    root = tmp_path_factory.mktemp("whole")
    code = command.start(*arguments, "--out", root / "run", log=root / "log").wait()
    assert code == 0, (root / "log").read_text()
    return root / "run"
