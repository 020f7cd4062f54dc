"""SFT and GRPO in one of several processes: python one_rank.py ROOT START COUNT..., or in the test's own process alone.

One process reads the libraries, which takes longer than all the training, and is then forked once for each rank.
GRPO's completions are made up from prompt, place in the group and step: what is sampled depends on how many processes
there are, and what is learned from the same completions must not.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from lorapar.basemodel import load_model
from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, ModelConfig, PromptConfig, RlConfig, SftConfig
from lorapar.errors import LoraparError, Terminated
from lorapar.progress import Silent
from lorapar.ranks import Ranks
from lorapar.records import Example
from lorapar.stopping import on_sigterm
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft
from lorapar.training.trainers import CarefulGRPOTrainer

# 21 rows in forward passes of two: one is half empty, and the last step of an epoch is short.
SFT = {"batch_size": 2, "gradient_accumulation": 8, "max_steps": 5, "learning_rate": 1e-3, "epochs": 9}
RL = {
    "batch_size": 4, "gradient_accumulation": 8, "num_generations": 4, "max_steps": 5, "max_prompt_length": 200,
    "max_completion_length": 8, "kl_beta": 0.1, "learning_rate": 1e-4, "rewards": {"one_rank:parity": 1.0},
}  # fmt: skip
RUNS = ("sft", "rows", "rl")
SHARDED = ("sft-sharded", "rl-sharded", "rl-sampled")
SAMPLED = {**RL, "max_steps": 2}
"""By real rollouts, which end at other lengths in each process while the base is gathered for all."""
FAULTY = {**RL, "rewards": {"one_rank:faulty": 1.0}}
ENDED = ("stopped", "failed")
"""Runs of two processes that the second one ends, in its third step."""
BEGUN_BY = (1, 4)
"""Numbers of processes that begin a run with which two go on; they come before two on the command line."""


def rows(count: int) -> list[Example]:
    """Questions and answers of different lengths."""
    return [
        Example(id=f"r{n}", question=f"{n}+2?", answer=f"{'so ' * (n % 5)}{n + 2}", reference=str(n + 2))
        for n in range(count)
    ]


def parity(completions: list[str], references: list[str]) -> list[float]:
    """A reward that a random model earns by chance; a whole group of four is always there to be looked at."""
    if len(completions) % 4 and len(completions) != 3:  # three are shown to it beforehand
        raise AssertionError("half a group")
    return [float(sum(map(ord, text)) % 2) for text in completions]


calls = 0


def faulty(completions: list[str], references: list[str]) -> list[float]:
    """As `parity`, but that it fails in the second process's third step."""
    global calls
    calls += 1
    if Ranks.here().rank == 1 and calls == 4:
        raise ValueError("no such unit")
    return parity(completions, references)


def made_up(self: CarefulGRPOTrainer, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
    """Completions of one to eight tokens."""
    seen: dict[tuple[int, ...], int] = {}
    completions = []
    for prompt in map(tuple, prompt_ids):
        place = seen[prompt] = seen.get(prompt, 0) + 1
        numbers = random.Random(f"{prompt} {place} {self.state.global_step}")
        completions.append([numbers.randrange(3, 90) for _ in range(numbers.randrange(1, 9))])
    return completions, None


sampled = CarefulGRPOTrainer._generate_single_turn


class Stopping(Silent):
    """A Progress in the second process to which SIGTERM comes in its third step."""

    steps = 0

    def advance(self, units: int = 1, note: str = "") -> None:
        """One step more."""
        self.steps += units
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def job_of(root: Path, start: Path, run: str, **changes: Any) -> TrainingJob:
    """One run's job; the first process leaves its adapter in `root`/`run`/rank0, the others theirs beside it."""
    output, scratch = root / run / f"rank{Ranks.here().rank}", root / run / "scratch"
    for folder in (output, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        **{
            "model": ModelConfig(name="builtin:tiny", dtype="float32"), "prompts": PromptConfig(), "seed": 0,
            "adapter": start / "adapter", "partition": start / "partition.safetensors", "output": output,
            "scratch": scratch, "progress": Silent(), **changes,
        }
    )  # fmt: skip


def train(root: Path, start: Path, runs: tuple[str, ...] = RUNS, *, sharded: bool = False) -> None:
    """Train each time to the end, with the base whole or sharded."""
    for run in runs:
        job = job_of(root, start, run, sharded=sharded)
        CarefulGRPOTrainer._generate_single_turn = sampled if run == "rl-sampled" else made_up  # type: ignore[method-assign]
        if run.startswith("rl"):
            settings = SAMPLED if run == "rl-sampled" else RL
            train_rl(job, RlConfig(**settings), system1=[], system2=rows(20))
        else:
            average = "row" if run == "rows" else "token"
            train_sft(job, SftConfig(**SFT, loss_average=average), system1=rows(21), system2=[])
    CarefulGRPOTrainer._generate_single_turn = made_up  # type: ignore[method-assign]


def write_share(root: Path) -> None:
    """Leave in held-RANK how many weights of a sharded base this process holds."""
    from torch.distributed.tensor import DTensor

    model = load_model(ModelConfig(name="builtin:tiny", dtype="float32"), sharded=True)
    held = [one.to_local() if isinstance(one, DTensor) else one for one in model.parameters()]
    (root / f"held-{Ranks.here().rank}").write_text(str(sum(one.numel() for one in held)))


def end(root: Path, start: Path, runs: tuple[str, ...]) -> None:
    """Runs that come to no end; each process leaves in ended.txt how it was told."""
    signal.signal(signal.SIGTERM, on_sigterm)
    ranks = Ranks.here()
    for run in runs:
        stops = run == "stopped" and ranks.rank == ranks.count - 1
        keeper = Keeper(CheckpointConfig(interval_seconds=3600))
        job = job_of(root, start, run, progress=Stopping() if stops else Silent(), keeper=keeper)
        try:
            if run == "failed":
                train_rl(job, RlConfig(**FAULTY), system1=[], system2=rows(20))
            else:
                train_sft(job, SftConfig(**SFT), system1=rows(21), system2=[])
        except (LoraparError, Terminated) as error:
            (job.output / "ended.txt").write_text(f"{type(error).__name__}: {error}")


def go_on(root: Path, start: Path, count: int) -> None:
    """Finish what another number of processes had begun."""
    job = job_of(root, start, f"from-{count}")
    if Ranks.here().first:
        shutil.copytree(root.parent / str(count) / "stopped" / "scratch", job.scratch, dirs_exist_ok=True)
    Ranks.here().wait()
    train_sft(job, SftConfig(**SFT), system1=rows(21), system2=[])


def one(rank: int, root: Path, start: Path, count: int) -> None:
    """What one of `count` forked processes does."""
    import torch
    import torch.distributed as dist

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in names.items()})
    # Nothing connects to them: the processes find one another by a file.
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root / 'meeting'}", rank=rank, world_size=count)
    if count == 2:
        train(root, start)
        train(root, start, SHARDED, sharded=True)
        write_share(root)
        for before in BEGUN_BY:
            go_on(root, start, before)
    elif count == 4:
        train(root, start, ("rows", "rl"))
    end(root, start, ENDED if count == 2 else ("stopped",))
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    from torch.multiprocessing.spawn import start_processes

    for number in map(int, sys.argv[3:]):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir(parents=True)
        start_processes(one, (folder, Path(sys.argv[2]), number), nprocs=number, start_method="fork")
