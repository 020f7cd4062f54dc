"""Steps of the demo's SFT and RL on the real 135M model: against plain TRL with PEFT, and against an earlier build.

Run by hand: `python -m pytest tests/benchmarks/bench_training.py -s`; takes 15 minutes and the model's wheel.
LORAPAR_BENCH_AGAINST names a checkout of another build than that of `earlier_build.py`; LORAPAR_BENCH_RUN the folder of
a finished run of the demo, whose adapters are taken instead of made in minutes. LORAPAR_BENCH_ROUNDS makes it shorter,
and LORAPAR_BENCH_PRESET=tiny, which has no bounds, tries it out in two minutes.

Number formats: this build computes in what `auto` comes to on this machine, as the demo does, and so does plain TRL
beside it. The earlier build computes in bfloat16, which its presets fixed. Where these differ, its SFT runs once more
in the format of this build, because the losses of both must be equal to 1e-5. For that, this build computes whole
batches once, which is timed apart: the demo's `sft.split_by_length` lets dropout draw other numbers.

A step of GRPO is its passes, sampling included; the optimiser's step is in the whole process only.

Each measurement is a process of its own (`training_stage.py`), and the two sides alternate. What is compared is
processor time, all threads together, so that other work on the machine counts little; wall time and peak memory are
printed. RL begins with an adapter that the SFT stage has tuned, as in the demo: its completions end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, lora_parameters, partition_elements, save_adapter, trainable_slice
from lorapar.basemodel import load_model
from lorapar.basemodel.number_format import number_format
from lorapar.config import load_config
from lorapar.errors import UnreachableError
from tests.benchmarks.earlier_build import ROOT, earlier_build
from tests.benchmarks.figures import Bound, Figure, at_most, now_at_most

pytestmark = pytest.mark.timeout(3600)
PRESET = os.environ.get("LORAPAR_BENCH_PRESET", "demo")
AGAINST, RUN = (os.environ.get(f"LORAPAR_BENCH_{name}") for name in ("AGAINST", "RUN"))
PAIRS, RL_STEPS, SFT_STEPS = int(os.environ.get("LORAPAR_BENCH_ROUNDS", "2")), 2, 6
PROGRAM = Path(__file__).with_name("training_stage.py")
LIMIT_PLAIN, LIMIT_RL, LIMIT_SFT, LIMIT_MEMORY = 0.60, 0.60, 0.85, 4.5
EQUAL_LOSSES = 1e-5


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    build: Path
    dtype: str
    """Number format of its model, and of autocast."""
    plain: bool = False
    """With TRL's trainer."""
    more: tuple[str, ...] = ()
    """Settings of its own."""

    @property
    def formats(self) -> list[str]:
        """Its number format as settings."""
        return [f"model.dtype={self.dtype}", f"model.autocast={'bfloat16' if self.dtype == 'bfloat16' else 'none'}"]


Sides = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""What runs of the other side took, and what those of this build did."""


def measured(name: str, folder: Path, steps: int | None, side: Side) -> dict[str, Any]:
    """`stage` of one side, in a process of its own."""
    settings = [*side.formats, *side.more, *([f"{name}.max_steps={steps}"] if steps else [])]
    result = subprocess.run(
        [sys.executable, str(PROGRAM), name, str(folder), "plain" if side.plain else "stage", *settings],
        env={**os.environ, "PYTHONPATH": str(side.build), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def alternating(name: str, folder: Path, steps: int, other: Side) -> Sides:
    """Runs of the other side and of this build by turns, this build first: its completions are those that TRL gets."""
    pairs = [(measured(name, folder, steps, ours()), measured(name, folder, steps, other)) for _ in range(PAIRS)]
    return [pair[1] for pair in pairs], [pair[0] for pair in pairs]


def ours() -> Side:
    """This build as the demo computes here."""
    return Side(ROOT, number_format().dtype)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """The earlier build, which computes the demo in bfloat16 everywhere."""
    return Side(Path(AGAINST) if AGAINST else earlier_build(tmp_path_factory.mktemp("earlier")), "bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`start` (a fresh adapter), `partition.safetensors`, and `tuned`: the adapter after the demo's SFT."""
    folder = tmp_path_factory.mktemp("training")
    if RUN:
        stages = Path(RUN) / "stages"
        shutil.copytree(stages / "init" / "adapter", folder / "start")
        shutil.copytree(stages / "sft" / "adapter", folder / "tuned")
        shutil.copy(stages / "partition" / "partition" / "partition.safetensors", folder)
        return folder
    try:
        make_start(folder)
    except UnreachableError as error:
        pytest.skip(f"the real model cannot be had here: {error}")
    measured("sft", folder, None, ours())
    (folder / "sft-out").rename(folder / "tuned")
    return folder


def make_start(folder: Path) -> None:
    """A fresh adapter and a partition of random scores at the demo's theta."""
    config = load_config(preset=PRESET, overrides=ours().formats)
    adapter = config.adapter
    settings = AdapterSettings(rank=adapter.rank, alpha=adapter.alpha, dropout=adapter.dropout, layout=adapter.layout)
    model = attach(load_model(config.model), settings, seed=0)
    save_adapter(model, folder / "start")
    generator = torch.Generator().manual_seed(1)
    scores = {
        system: {
            name: torch.rand(trainable_slice(name, tensor, adapter.rank).shape, generator=generator) ** 2
            for name, tensor in lora_parameters(model).items()
        }
        for system in ("system1", "system2")
    }
    partition = partition_elements(scores, theta=config.partition.theta, shared={"system1": 1.0, "system2": 1.0})
    partition.save(folder / "partition.safetensors", {})


def best(runs: list[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> float:
    """Other work on the machine only adds to what a run costs."""
    return min(map(cost, runs))


def asked(bound: Bound) -> Bound | None:
    """The bounds are of the demo; other settings only show that the benchmark runs."""
    return bound if PRESET == "demo" else None


def compare(figure: Callable[..., Figure], what: str, sides: Sides, limit: float | None) -> None:
    """Processor time, which `limit` is of, wall time and memory of whole processes."""
    theirs, own = sides
    for name, key, bound in (("processor time", "cpu", limit and at_most(limit)), ("wall time", "wall", None)):
        figures = (best(runs, lambda run, key=key: run[key]) for runs in (theirs, own))
        figure(f"{what}, {name}", *figures, bound and asked(bound))
    peaks = (max(run["gigabytes"] for run in runs) for runs in (theirs, own))
    figure(f"{what}, peak memory", *peaks, asked(now_at_most(LIMIT_MEMORY)), unit="GB")


def test_a_step_of_grpo_against_plain_trl(folder: Path, figure: Callable[..., Figure]) -> None:
    dtype = ours().dtype
    sides = alternating("rl", folder, RL_STEPS, Side(ROOT, dtype, plain=True))
    what = f"{RL_STEPS} steps of GRPO against plain TRL with PEFT, both in {dtype}"
    steps = (best(runs, lambda run: sum(run["passes"])) for runs in sides)
    figure(f"{what}, processor time", *steps, asked(at_most(LIMIT_PLAIN)))
    learning = (best(runs, lambda run: sum(run["passes"][1::4])) for runs in sides)
    figure("passes of these that only learn, processor time", *learning)
    compare(figure, f"{what}, whole process", sides, None)


@pytest.mark.parametrize(("name", "steps", "limit"), [("rl", RL_STEPS, LIMIT_RL), ("sft", SFT_STEPS, LIMIT_SFT)])
def test_a_stage_against_an_earlier_build(
    folder: Path, earlier: Side, figure: Callable[..., Figure], name: str, steps: int, limit: float
) -> None:
    sides = alternating(name, folder, steps, earlier)
    what = f"stage {name}, {steps} steps with loading, {ours().dtype} against {earlier.dtype}"
    compare(figure, what, sides, limit)
    if name == "sft":
        alike = replace(earlier, dtype=ours().dtype)
        expected = sides[0][0] if alike == earlier else measured(name, folder, steps, alike)
        whole = measured(name, folder, steps, replace(ours(), more=("sft.split_by_length=false",)))
        figure(
            f"{what}, batches not split by length, processor time", best(sides[0], lambda run: run["cpu"]), whole["cpu"]
        )
        assert whole["losses"] == pytest.approx(expected["losses"], abs=EQUAL_LOSSES)
