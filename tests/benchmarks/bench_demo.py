"""The whole demo of this build and of the earlier one, each in the number format that it chooses here: time and memory.

Each is one process, `lorapar run` into an empty folder, with the model fetched and converted before. The bound of the
whole is of wall time where the machine is idle, else of processor time; a load that falls is waited for, three minutes
at most. The imports of models' libraries are in the first stage that needs them, which is `plan` in this build and
`vote` in the earlier one, so `plan` counts among the five stages.

Run by hand: `python -m pytest tests/benchmarks/bench_demo.py -s`; takes 25 minutes on two cores with native bfloat16,
an hour and more without. LORAPAR_BENCH_PRESET=tiny, which has no bounds, tries it out in a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorapar.basemodel.number_format import number_format
from tests.benchmarks.earlier_build import ROOT, earlier_build
from tests.benchmarks.figures import Bound, Figure, at_most, native_bfloat16, now_at_most

pytestmark = pytest.mark.timeout(4 * 3600)
PRESET = os.environ.get("LORAPAR_BENCH_PRESET", "demo")
PROGRAM = Path(__file__).with_name("timed_run.py")
LIMIT_WHOLE, LIMIT_MEMORY, LIMIT_EMULATED = 0.65, 4.5, 0.35
IDLE, WAITED_SECONDS, BETWEEN_SECONDS = 0.5, 180, 5
STAGES = {
    "vote": ("plan", "vote-first", "vote-rest"),
    "score": ("score-system1", "score-system2"),
    "sft": ("sft",),
    "rl": ("rl",),
    "evaluate": ("evaluate",),
}
FETCH = """
import sys
from lorapar.basemodel import model_folder
from lorapar.config import load_config
model_folder(load_config(preset=sys.argv[1]).model)
"""


def becomes_idle() -> bool:
    """Whether nothing else runs here, or soon no longer does."""
    until = time.monotonic() + (WAITED_SECONDS if PRESET == "demo" else 0)
    while os.getloadavg()[0] >= IDLE:
        if time.monotonic() >= until:
            return False
        time.sleep(BETWEEN_SECONDS)
    return True


def environment(build: Path) -> dict[str, str]:
    """Of a process of one build."""
    return {**os.environ, "PYTHONPATH": str(build), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


def fetch(build: Path) -> None:
    """The model, as this build keeps it."""
    command = [sys.executable, "-c", FETCH, PRESET]
    ended = subprocess.run(command, env=environment(build), capture_output=True, text=True, check=False)
    if "UnreachableError" in ended.stderr:
        pytest.skip(f"the real model cannot be had here: {ended.stderr.splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr


def whole(name: str, build: Path, folder: Path) -> dict[str, Any]:
    """What a run of one build took; printed, because the other may fail after many minutes."""
    folder.mkdir()
    fetch(build)
    idle = becomes_idle()
    command = [sys.executable, str(PROGRAM), sys.executable, "-m", "lorapar"]
    command += ["run", "--preset", PRESET, "--out", str(folder / "run")]
    ended = subprocess.run(command, env=environment(build), cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{name}: {ended.stdout[-2000:]}{ended.stderr[-4000:]}"
    found = json.loads(ended.stdout)
    for node, (wall, cpu) in found["nodes"].items():
        print(f"{name}: {node} {wall:.1f} s, processor {cpu:.1f} s")
    print(f"{name}: {found['wall']:.0f} s, processor {found['cpu']:.0f} s, {found['gigabytes']:.2f} GB", flush=True)
    return {**found, "idle": idle}


def of_stage(run: dict[str, Any], stage: str, clock: int) -> float:
    """Seconds by one of the two clocks: wall, processor."""
    return sum(run["nodes"][node][clock] for node in STAGES[stage] if node in run["nodes"])


def asked(bound: Bound | None) -> Bound | None:
    """The bounds are of the demo; other settings only show that the benchmark runs."""
    return bound if PRESET == "demo" else None


def test_the_whole_demo_against_the_earlier_build(tmp_path: Path, figure: Callable[..., Figure]) -> None:
    now = whole("now", ROOT, tmp_path / "now")
    earlier = whole("earlier", earlier_build(tmp_path / "build"), tmp_path / "earlier")
    what = f"{PRESET}, {number_format().dtype} against bfloat16" if PRESET == "demo" else PRESET
    for clock, name in enumerate(("wall", "processor")):
        for stage in STAGES:
            figure(f"{what}, {stage}, {name} time", *(of_stage(run, stage, clock) for run in (earlier, now)))
    five = (sum(of_stage(run, stage, 1) for stage in STAGES) for run in (earlier, now))
    emulated = None if native_bfloat16() else at_most(LIMIT_EMULATED)
    figure(f"{what}, these five, processor time", *five, asked(emulated))
    idle = now["idle"] and earlier["idle"]
    for key, name, counts in (("wall", "wall", idle), ("cpu", "processor", not idle)):
        bound = at_most(LIMIT_WHOLE) if counts else None
        figure(f"whole {what}, {name} time", earlier[key], now[key], asked(bound))
    bound = asked(now_at_most(LIMIT_MEMORY))
    figure(f"whole {what}, peak memory", earlier["gigabytes"], now["gigabytes"], bound, unit="GB")
