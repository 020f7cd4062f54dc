"""SFT and GRPO in one of several processes: python one_rank.py ROOT START COUNT..., or in the test's own process alone.

One process reads the libraries, which takes longer than all the training, and is then forked once for each rank.
GRPO's completions are made up from prompt, place in the group and step: what is sampled depends on how many processes
there are, and what is learned from the same completions must not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

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
FAULTY = {**RL, "rewards": {"one_rank:faulty": 1.0}}
ENDED = ("stopped", "failed")
"""Runs of two processes that the second one ends, in its third step."""


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


def train(root: Path, start: Path) -> None:
    """Train three times to the end."""
    CarefulGRPOTrainer._generate_single_turn = made_up  # type: ignore[method-assign]
    for run in RUNS:
        job = job_of(root, start, run)
        if run == "rl":
            train_rl(job, RlConfig(**RL), system1=[], system2=rows(20))
        else:
            average = "row" if run == "rows" else "token"
            train_sft(job, SftConfig(**SFT, loss_average=average), system1=rows(21), system2=[])


def end(root: Path, start: Path) -> None:
    """Two runs that come to no end; each process leaves in ended.txt how it was told."""
    signal.signal(signal.SIGTERM, on_sigterm)
    for run in ENDED:
        first = Ranks.here().first
        job = job_of(
            root, start, run, progress=Silent() if first or run == "failed" else Stopping(),
            keeper=Keeper(CheckpointConfig(interval_seconds=3600)),
        )  # fmt: skip
        try:
            if run == "failed":
                train_rl(job, RlConfig(**FAULTY), system1=[], system2=rows(20))
            else:
                train_sft(job, SftConfig(**SFT), system1=rows(21), system2=[])
        except (LoraparError, Terminated) as error:
            (job.output / "ended.txt").write_text(f"{type(error).__name__}: {error}")


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
    train(root, start)
    if count == 2:
        end(root, start)
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    from torch.multiprocessing.spawn import start_processes

    for number in map(int, sys.argv[3:]):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir(parents=True)
        start_processes(one, (folder, Path(sys.argv[2]), number), nprocs=number, start_method="fork")
