"""The demo's stages as `auto` computes them here, against an earlier build that knew bfloat16 alone.

On a CPU without native bfloat16 the earlier build emulates it; on another one this measures what else became faster.
Fewer steps and held-out rows than the demo has, the same for both builds; the last line is the sum at the demo's own
numbers. Processor time of the command up to each stage, whose start of two seconds is part of it.

Run by hand: `python -m pytest tests/benchmarks/bench_number_formats.py -s`; takes half an hour, most of it emulation.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lorapar.basemodel.number_format import number_format
from tests.benchmarks.earlier_build import ROOT, earlier_build

pytestmark = pytest.mark.timeout(7200)
LARGEST = 0.35
SETTINGS = (
    "data.task_mix={system1_train: 96, system1_heldout: 16, system2_train: 128, system2_heldout: 32}",
    *("sft.max_steps=14", "rl.max_steps=2"),
)
TIMES = {
    "tally": 1.0,
    "score": 1.0,
    "partition": 0.0,
    "sft": 42 / 14,
    "rl": 11 / 2,
    "publish": 0.0,
    "evaluate": 144 / 48,
}
"""How much more of it the whole demo has; the stages between are not part of the target."""


def stage_seconds(build: Path, folder: Path) -> dict[str, float]:
    """Processor time of each stage of a run; what comes before the votes is done and not counted."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_WAIT_POLICY": "PASSIVE"}
    settings = [word for one in SETTINGS for word in ("--set", one)]
    found = {}
    for stage in ("prepare", *TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-m",
            "lorapar",
            "run",
            "--preset",
            "demo",
            "--out",
            "run",
            "--until",
            stage,
            *settings,
        ]
        ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found[stage] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(f"{folder.name}: {stage} {found[stage]:.1f} s", flush=True)
    return found


def test_stages_of_the_demo_on_a_cpu_without_native_bfloat16(tmp_path):
    if number_format().dtype != "float32":
        pytest.skip(f"{number_format().description}; the target is of CPUs that emulate it")
    builds = {"before": earlier_build(tmp_path / "builds"), "now": ROOT}
    taken = {name: stage_seconds(build, tmp_path / name) for name, build in builds.items()}
    for stage in TIMES:
        print(f"{stage}: {taken['now'][stage] / taken['before'][stage]:.2f}")
    before, now = (sum(times * taken[name][stage] for stage, times in TIMES.items()) for name in ("before", "now"))
    print(f"the demo's vote, score, sft, rl and evaluate: {before:.0f} s before, {now:.0f} s now, {now / before:.2f}")
    assert now <= LARGEST * before
