"""The package as it was at an earlier commit, for benchmarks that measure what a change was worth."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "a0f5ba66ddbe78313df85a0a173f6f9ead672c17"
"""The commit against which docs/speed.md tells how much faster things have become."""


def earlier_build(folder: Path, commit: str = BEFORE) -> Path:
    """Put `lorapar/` of a commit below `folder`, which a process then takes by PYTHONPATH, with today's libraries.

    Skips the benchmark where the repository does not hold the commit: in a shallow clone, or an unpacked archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / "lorapar.tar"
    command = ["git", "-C", str(ROOT), "archive", f"--output={packed}", commit, "lorapar"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no commit {commit} here: git fetch --unshallow")
    subprocess.run(["tar", "-xf", str(packed), "-C", str(folder)], check=True)
    packed.unlink()
    return folder
