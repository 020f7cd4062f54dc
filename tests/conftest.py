"""What every test shares: quiet threads, and one real run of the tiny preset that many tests look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest


def run_cli(*arguments: str | Path, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Call the `lorapar` command in a process of its own, as a person would."""
    command = [sys.executable, "-m", "lorapar.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="session")
def cli():
    """The `lorapar` command."""
    return run_cli


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of one finished `lorapar run --preset tiny`; look, do not touch."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    result = run_cli("run", "--preset", "tiny", "--out", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "console.txt").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the finished tiny run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))
