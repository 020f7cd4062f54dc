"""A tiny model with a fresh adapter and a partition of it, ready to be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import PartialState

from lorapar.adapter import AdapterSettings, Partition, attach, lora_parameters, partition_elements, trainable_slice
from lorapar.adapter.files import read_tensors
from lorapar.adapter.folder import save_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig, PromptConfig
from lorapar.records import Example
from lorapar.training.session import TrainingJob
from tests.notes import Notes

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
RANK = 2


def words(count: int) -> list[Example]:
    """System 1 rows."""
    return [Example(id=f"w{n}", question=f"What is a b{n}?", answer="tool", reference="tool") for n in range(count)]


def sums(count: int, **fields: Any) -> list[Example]:
    """System 2 rows."""
    rows = []
    for n in range(count):
        answer = f"<reasoning>{n}+2={n + 2}</reasoning><answer>{n + 2}</answer>"
        rows.append(
            Example(**{"id": f"s{n}", "question": f"{n}+2?", "answer": answer, "reference": str(n + 2)} | fields)
        )
    return rows


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`adapter/` and `partition.safetensors`: random scores at theta 0.7, so that every region has elements."""
    folder = tmp_path_factory.mktemp("start")
    model = attach(load_model(TINY), AdapterSettings(rank=RANK, alpha=8, dropout=0.05), seed=0)
    save_adapter(model, folder / "adapter")
    random_partition(model, shared={"system1": 1.0, "system2": 1.0}).save(folder / "partition.safetensors", {})
    return folder


def random_partition(model: torch.nn.Module, shared: dict[str, float], theta: float = 0.7) -> Partition:
    """A partition of random scores, the same every time."""
    generator = torch.Generator().manual_seed(1)
    scores = {
        system: {
            name: torch.rand(trainable_slice(name, tensor, RANK).shape, generator=generator)
            for name, tensor in lora_parameters(model).items()
        }
        for system in shared
    }
    return partition_elements(scores, theta=theta, shared=shared)


@pytest.fixture
def make_job(start: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    """Jobs on the tiny model, each with folders of its own: make_job("name", seed=1)."""

    def make(name: str = "job", **changes: Any) -> TrainingJob:
        root = tmp_path / name
        for folder in ("out", "scratch"):
            (root / folder).mkdir(parents=True)
        job = TrainingJob(
            model=TINY,
            prompts=PromptConfig(system2="Think."),
            seed=0,
            adapter=start / "adapter",
            partition=start / "partition.safetensors",
            output=root / "out",
            scratch=root / "scratch",
            progress=Notes(),
        )
        return replace(job, **changes)

    return make


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers makes of a machine with two GPUs and no launcher (5.23, training_args.py, `_setup_devices`).

    The device stays the CPU, because there is no GPU to go to here.
    """

    def setup_devices(self: transformers.TrainingArguments) -> torch.device:
        if not hasattr(self, "distributed_state"):  # transformers does it once, too
            self._n_gpu = 2
        self.distributed_state = PartialState(cpu=True)
        return torch.device("cpu")

    monkeypatch.setattr(transformers.TrainingArguments, "_setup_devices", property(setup_devices))
    monkeypatch.setattr("lorapar.training.session.visible_gpus", lambda: 2)


class Kit:
    """Helpers as one fixture, because test files cannot import each other."""

    TINY = TINY
    Notes = Notes
    words = staticmethod(words)
    sums = staticmethod(sums)
    random_partition = staticmethod(random_partition)

    @staticmethod
    def tensors(folder: Path) -> dict[str, torch.Tensor]:
        """The tensors of an adapter folder."""
        return read_tensors(folder / "adapter_model.safetensors")[0]

    @staticmethod
    def changed(job: TrainingJob, system: str) -> tuple[torch.Tensor, torch.Tensor]:
        """For every element of the adapter: whether its bits changed, and whether it was active."""
        before, after = Kit.tensors(job.adapter), Kit.tensors(job.output)
        mask = Partition.load(job.partition).mask(system)
        moved, active = [], []
        for name in sorted(before):
            moved.append((before[name].view(torch.int32) != after[name].view(torch.int32)).flatten())
            whole = torch.zeros(before[name].shape, dtype=torch.bool)
            if ".lora_A." in name:
                whole[:RANK] = mask[name]
            else:
                whole[:, :RANK] = mask[name]
            active.append(whole.flatten())
        return torch.cat(moved), torch.cat(active)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    """Rows, notes and comparisons."""
    return Kit
