"""GRPO by a server of rollouts in each of two processes: python served_rank.py ROOT START ADDRESS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import one_rank

from lorapar.config import RlConfig
from lorapar.errors import LoraparError
from lorapar.ranks import Ranks
from lorapar.training.engine_trainer import EngineGRPOTrainer
from lorapar.training.rl import train_rl

QUICK = {"attempts": 1, "max_wait_seconds": 0.1}
SHORT = {**one_rank.RL, "max_steps": 2, "rollouts": "server", "keep_rollouts": 32}


def settings(address: str, **changes: Any) -> RlConfig:
    """Two steps of 32 completions; a server that is gone is waited for no longer than it takes to see it."""
    return RlConfig(**SHORT, server={"endpoint": address, "openai": QUICK, "wait_seconds": 0.2}, **changes)


def sharded_once(root: Path, start: Path, address: str) -> None:
    """With the base in parts, whose comparisons with the server all processes have to make."""
    train_rl(one_rank.job_of(root, start, "sharded", sharded=True), settings(address), system1=[], system2=rows())


def rows() -> Any:
    """Those of `one_rank`."""
    return one_rank.rows(20)


def lost_in_one(root: Path, start: Path, address: str) -> None:
    """The second process loses the server in its second step; both leave in ended.txt how they were told."""
    plain, calls = EngineGRPOTrainer._generate_single_turn, 0

    def losing(self: EngineGRPOTrainer, *given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and Ranks.here().rank == 1:
            self._rollouts._server.complete = _lost  # type: ignore[attr-defined]
        return plain(self, *given, **more)

    EngineGRPOTrainer._generate_single_turn = losing  # type: ignore[method-assign]
    job = one_rank.job_of(root, start, "lost")
    try:
        train_rl(job, settings(address), system1=[], system2=rows())
    except LoraparError as error:
        (job.output / "ended.txt").write_text(f"{type(error).__name__}: {error}")


def _lost(*_: Any) -> Any:
    from lorapar.errors import UnreachableError

    raise UnreachableError("no answer")


def one(rank: int, root: Path, start: Path, address: str) -> None:
    """What each of the processes does."""
    import torch
    import torch.distributed as dist

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root / 'meeting'}", rank=rank, world_size=2)
    train_rl(one_rank.job_of(root, start, "served"), settings(address), system1=[], system2=rows())
    sharded_once(root, start, address)
    lost_in_one(root, start, address)
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    from torch.multiprocessing.spawn import start_processes

    place = Path(sys.argv[1])
    start_processes(one, (place, Path(sys.argv[2]), sys.argv[3]), nprocs=2, start_method="fork")
