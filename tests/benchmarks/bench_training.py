"""Steps of the demo's SFT and RL on the real 135M model: against plain TRL with PEFT, and against an earlier build.

Run by hand: `python -m pytest tests/benchmarks/bench_training.py -s`; takes about ten minutes and the model's wheel.
`LORAPAR_BENCH_AGAINST` names a checkout of an earlier build, without which only plain TRL is compared with;
`LORAPAR_BENCH_RUN` the folder of a finished run of the demo, whose adapters are taken instead of made in minutes.

Each measurement is a process of its own, which is this file run as a program, and the two sides alternate. What is
compared is processor time, all threads together, so that other work on the machine counts little; seconds and peak
memory are printed. RL begins with an adapter that the SFT stage has tuned, as in the demo: its completions end.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from lorapar.adapter import AdapterSettings, attach, lora_parameters, partition_elements, save_adapter, trainable_slice
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import load_config
from lorapar.data import load_examples
from lorapar.errors import UnreachableError
from lorapar.progress import Silent
from lorapar.training import rl, sft
from lorapar.training.arguments import rl_arguments
from lorapar.training.rewards import load_rewards
from lorapar.training.rows import rl_rows
from lorapar.training.session import TrainingJob
from lorapar.training.trainers import CarefulGRPOTrainer

ROOT = Path(__file__).parents[2]
AGAINST, RUN = (os.environ.get(f"LORAPAR_BENCH_{name}") for name in ("AGAINST", "RUN"))
FORMATS = ["model.dtype=bfloat16", "model.autocast=bfloat16"]
PAIRS, RL_STEPS, SFT_STEPS = 2, 2, 6
LIMIT_PLAIN, LIMIT_RL, LIMIT_SFT, LIMIT_MEMORY = 0.60, 0.60, 0.85, 4.5


def stage(name: str, folder: Path, steps: int | None, *, plain: bool = False) -> dict[str, Any]:
    """Run a stage of the demo in this process; what it cost. `plain`: TRL's GRPO on PEFT's model, nothing of ours."""
    config = load_config(preset="demo", overrides=[*FORMATS, *([f"{name}.max_steps={steps}"] if steps else [])])
    output, scratch = folder / f"{name}-out", folder / f"{name}-scratch-{os.getpid()}"
    for made in (output, scratch):
        made.mkdir(exist_ok=True)
    job = TrainingJob(
        model=config.model, prompts=config.prompts, seed=0, adapter=folder / ("start" if name == "sft" else "tuned"),
        partition=folder / "partition.safetensors", output=output, scratch=scratch, progress=Silent(),
    )  # fmt: skip
    rows = [row for row in load_examples(config.data, config.seed) if row.split == "train"]
    by_system = {s: [row for row in rows if row.known_system == s] for s in ("system1", "system2")}
    passes = timed_passes(folder, plain=plain)
    before = time.process_time(), time.monotonic()
    if plain:
        plain_grpo(job, config.rl, by_system["system2"])
    else:
        (sft.train_sft if name == "sft" else rl.train_rl)(job, getattr(config, name), **by_system)
    history = output / "history.jsonl"
    return {
        "cpu": time.process_time() - before[0],
        "wall": time.monotonic() - before[1],
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "passes": passes,
        "losses": [] if plain else [json.loads(line)["loss"] for line in history.read_text().splitlines()],
    }


def plain_grpo(job: Any, config: Any, rows: list[Any]) -> None:
    """The stage's data, rewards and arguments in TRL's trainer, with its own optimiser over the whole adapter."""
    from lorapar.basemodel import answer_end  # not at the top: an earlier build has it elsewhere

    tokenizer = load_tokenizer(job.model)
    end = answer_end(tokenizer)
    rewards = load_rewards(config.rewards)
    model = PeftModel.from_pretrained(load_model(job.model), job.adapter, is_trainable=True)
    model.generation_config.eos_token_id = list(end.token_ids)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[rl.for_trl(reward, end.cut) for reward in rewards],
        args=GRPOConfig(**rl_arguments(config, job.model, rewards, job.seed, job.scratch)),
        train_dataset=rl.rl_data(job, rl_rows({"system2": rows}, "system2", config, tokenizer, job.prompts).rows),
        processing_class=tokenizer,
    )
    trainer.train()


def timed_passes(folder: Path, *, plain: bool) -> list[float]:
    """Processor seconds of each forward and backward pass, the first of a step with its sampling.

    The completions that our side learns from are kept; plain TRL samples, too, and then learns from those kept.
    """
    kind = GRPOTrainer if plain else CarefulGRPOTrainer
    one_pass, sample = kind.training_step, kind._generate_single_turn
    found: list[float] = []

    def training_step(self: Any, *args: Any, **more: Any) -> Any:
        before = time.process_time()
        loss = one_pass(self, *args, **more)
        found.append(time.process_time() - before)
        return loss

    def generate(self: Any, *args: Any, **more: Any) -> Any:
        sampled = sample(self, *args, **more)
        kept = folder / f"completions-{self.state.global_step}.json"
        if plain:
            return json.loads(kept.read_text()), None
        kept.write_text(json.dumps(sampled[0]))
        return sampled

    kind.training_step, kind._generate_single_turn = training_step, generate
    return found


def measured(name: str, folder: Path, steps: int | None, mode: str) -> dict[str, Any]:
    """`stage` in a process of its own: of this checkout, of the earlier build (`against`), or with plain TRL."""
    source = AGAINST if mode == "against" else str(ROOT)
    result = subprocess.run(
        [sys.executable, __file__, name, str(folder), str(steps or 0), mode],
        env={**os.environ, "PYTHONPATH": str(source), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def alternating(name: str, folder: Path, steps: int, other: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs of this build and of the other side by turns."""
    pairs = [(measured(name, folder, steps, "ours"), measured(name, folder, steps, other)) for _ in range(PAIRS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> float:
    return min(run[key] for run in ours) / min(run[key] for run in theirs)


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
    measured("sft", folder, None, "ours")
    (folder / "sft-out").rename(folder / "tuned")
    return folder


def make_start(folder: Path) -> None:
    """A fresh adapter and a partition of random scores at the demo's theta."""
    config = load_config(preset="demo", overrides=FORMATS)
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


def message(what: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    figures = ", ".join(f"{key} {ratio(ours, theirs, key):.2f}" for key in ("cpu", "wall", "gigabytes"))
    memory = max(run["gigabytes"] for run in ours)
    print(f"\n{what}: {figures} of theirs; ours {min(run['cpu'] for run in ours):.0f} s, {memory:.1f} GB at most")


def test_a_step_of_grpo_against_plain_trl(folder: Path) -> None:
    ours, theirs = alternating("rl", folder, RL_STEPS, "plain")
    steps = [min(sum(run["passes"]) for run in runs) for runs in (ours, theirs)]
    learning = [min(sum(run["passes"][1::4]) for run in runs) for runs in (ours, theirs)]
    message(f"{RL_STEPS} steps of GRPO against plain TRL, whole process", ours, theirs)
    print(f"steps {steps[0] / steps[1]:.2f}, passes that only learn {learning[0] / learning[1]:.2f}")
    assert steps[0] / steps[1] <= LIMIT_PLAIN
    assert max(run["gigabytes"] for run in ours) <= LIMIT_MEMORY


@pytest.mark.skipif(AGAINST is None, reason="LORAPAR_BENCH_AGAINST names no earlier build")
@pytest.mark.parametrize(("name", "steps", "limit"), [("rl", RL_STEPS, LIMIT_RL), ("sft", SFT_STEPS, LIMIT_SFT)])
def test_a_stage_against_an_earlier_build(folder: Path, name: str, steps: int, limit: float) -> None:
    ours, theirs = alternating(name, folder, steps, "against")
    message(f"stage {name}, {steps} steps, loading included", ours, theirs)
    print(f"losses {ours[0]['losses']} and {theirs[0]['losses']}")
    assert ratio(ours, theirs, "cpu") <= limit
    assert max(run["gigabytes"] for run in ours) <= LIMIT_MEMORY


if __name__ == "__main__":
    stage_name, where, count, side = sys.argv[1:]
    print(json.dumps(stage(stage_name, Path(where), int(count) or None, plain=side == "plain")))
