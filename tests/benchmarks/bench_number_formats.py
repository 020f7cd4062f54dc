"""The demo's stages as `auto` computes them here, against an earlier build that knew bfloat16 alone.

Where `auto` comes to float32, and so this machine computes the demo in another format than the earlier build:

- On a CPU without native bfloat16 the earlier build emulates it. The target, 0.35, is of these.
- On a CPU whose native bfloat16 is slower than float32 this measures what choosing float32 is worth, with what else
  became faster. No target was set for these, so there is no bound.

Where `auto` comes to bfloat16 there is nothing to compare; `bench_training.py` and `bench_demo.py` measure what else
became faster.

Fewer steps and held-out rows than the demo has, the same for both builds; the last line is the sum at the demo's own
numbers. Processor time of the command up to each stage, whose start of two seconds is part of it. A stage that fails
ends the measurement of its build; what both builds have finished is compared all the same, and the benchmark fails.

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
from tests.benchmarks.figures import at_most, native_bfloat16

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


def stage_seconds(build: Path, folder: Path, failures: list[str]) -> dict[str, float]:
    """Processor time of each stage of a run up to one that fails; what comes before the votes is not counted."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_WAIT_POLICY": "PASSIVE"}
    settings = [word for one in SETTINGS for word in ("--set", one)]
    command = [sys.executable, "-m", "lorapar", "run", "--preset", "demo", "--out", "run", *settings, "--until"]
    found = {}
    for stage in ("prepare", *TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [*command, stage], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode != 0:
            failures.append(f"{folder.name}: {stage}: {ended.stderr[-2000:]}")
            print(failures[-1], flush=True)
            break
        found[stage] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(f"{folder.name}: {stage} {found[stage]:.1f} s", flush=True)
    return found


def test_stages_of_the_demo_where_auto_is_not_bfloat16(tmp_path, figure):
    if number_format().dtype != "float32":
        pytest.skip(f"{number_format().description}; this is for CPUs where `auto` is float32")
    builds = {"before": earlier_build(tmp_path / "builds"), "now": ROOT}
    failures: list[str] = []
    taken = {name: stage_seconds(build, tmp_path / name, failures) for name, build in builds.items()}
    both = [stage for stage in TIMES if all(stage in found for found in taken.values())]
    for stage in both:
        figure(f"stage {stage}, float32 against bfloat16", taken["before"][stage], taken["now"][stage])
    assert not failures, f"compared up to {both[-1] if both else 'nothing'}"
    before, now = (sum(times * taken[name][stage] for stage, times in TIMES.items()) for name in ("before", "now"))
    what = "the demo's vote, score, sft, rl and evaluate, float32 against bfloat16"
    figure(f"{what}, {'slow' if native_bfloat16() else 'emulated'}", before, now, bound())


def bound():
    """The target is of CPUs that emulate bfloat16."""
    return None if native_bfloat16() else at_most(LARGEST)
