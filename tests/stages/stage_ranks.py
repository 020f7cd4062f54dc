"""Stages in one of several processes: python stage_ranks.py CALLS COUNT..., as tests/training/one_rank.py does.

CALLS is a JSON list of calls in a folder; each is made with every number of processes, into FOLDER/<count>/<name>.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import lorapar.held_back  # noqa: F401
from lorapar.adapter import load_adapter  # noqa: F401  -- what takes long to read is read before the processes are forked
from lorapar.basemodel import load_model
from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, ModelConfig
from lorapar.evaluation import engine, transformers_engine  # noqa: F401
from lorapar.evaluation.benchmarks import ask, hugging_face_lm, journal, tasks  # noqa: F401
from lorapar.progress import Silent
from lorapar.stages.contract import StageCall, run_stage, stage_spec


class StoppedError(Exception):
    """Ends a call in the middle."""


class Stopping(Silent):
    """A Progress of a process that is ended after so many steps of its work; None: never."""

    def __init__(self, after: int | None) -> None:
        self._left = after

    def advance(self, units: int = 1, note: str = "") -> None:
        """One step more."""
        if self._left is not None:
            self._left -= 1
            if self._left == -1:
                raise StoppedError


def make(call: dict[str, Any], folder: Path, rank: int) -> None:
    """One process's part of one call; only the first one's outputs are worth a look."""
    spec = stage_spec(call["stage"])
    outputs = {name: folder / ("" if rank == 0 else f"of-rank-{rank}") / name for name in spec.outputs}
    for path in (*outputs.values(), folder / "scratch"):
        path.mkdir(parents=True, exist_ok=True)
    given: StageCall[Any] = StageCall(
        settings=spec.settings.model_validate(call["settings"]),
        inputs={name: tuple(map(Path, paths)) for name, paths in call["inputs"].items()},
        outputs=outputs,
        scratch=folder / "scratch",
        keeper=Keeper(CheckpointConfig(interval_seconds=0.0)),
        progress=Stopping(call.get("stop_after")),
        cache=Path(call["cache"]) if "cache" in call else None,
    )
    try:
        metrics = run_stage(call["stage"], given)
    except StoppedError:
        return
    if rank == 0:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def one(rank: int, root: Path, calls: list[dict[str, Any]], count: int) -> None:
    """What one of `count` forked processes does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root / 'meeting'}", rank=rank, world_size=count)
    for call in calls:
        make(call, root / call["name"], rank)
        dist.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    from lm_eval import evaluator  # noqa: F401
    from lm_eval.models import huggingface  # noqa: F401
    from torch.multiprocessing.spawn import start_processes

    load_model(ModelConfig(name="builtin:tiny", dtype="float32"))
    read = json.loads(Path(sys.argv[1]).read_text())
    for number in map(int, sys.argv[2:]):
        made = Path(sys.argv[1]).parent / str(number)
        made.mkdir(parents=True)
        start_processes(one, (made, read, number), nprocs=number, start_method="fork")
