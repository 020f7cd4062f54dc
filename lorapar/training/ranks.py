"""Training in several processes: which of them this one is, what they agree on, and its share of a step.

A step has the same rows however many processes share it, so their number is no part of what a stage makes: a run begun
with some goes on with others. The first process writes; the others compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from lorapar.config import RlConfig, SftConfig
from lorapar.training.own_rewards import RewardError
from lorapar.training.shares import best_share


class OtherRankError(RewardError):
    """Another process failed, and says why."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; one that trains alone is the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """As torch's process group says."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once all have come here."""
        self.any(False)

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag whether it is set in some process; all call it, in the same order."""
        return [bool(value) for value in self._most([int(flag) for flag in flags])]

    def from_first(self, number: int) -> int:
        """The first process's number, which is not negative; those of the others do not count."""
        return self._most([number if self.first else 0])[0]

    def _most(self, values: list[int]) -> list[int]:
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_cpu_group())
        return [int(value) for value in tensor]

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A RewardError in one process is one in all, so that all can save what the next call goes on from."""
        failure: RewardError | None = None
        try:
            yield
        except RewardError as error:
            failure = error
        if self.any(failure is not None)[0]:
            raise failure or OtherRankError("a reward failed in another process")

    def arguments(self, config: SftConfig | RlConfig) -> dict[str, Any]:
        """Settings of TRL that depend on how many processes there are; none for one."""
        if self.count == 1:
            return {}
        share = best_share(config, self.count)
        if share.processes != self.count:
            raise AssertionError(f"a step cannot be divided among {self.count} processes")
        shared: dict[str, Any] = {
            "per_device_train_batch_size": share.batch_size,
            "gradient_accumulation_steps": share.gradient_accumulation,
            "average_tokens_across_devices": True,
        }
        if isinstance(config, RlConfig):
            shared["steps_per_generation"] = share.gradient_accumulation
        return shared


@cache
def _cpu_group() -> Any:
    """A group for small numbers: on GPUs those of the gradients would have to wait for the device."""
    return dist.new_group(backend="gloo")


class FilledSampler(torch.utils.data.Sampler[int]):
    """All rows in a random order, anew each epoch, and a filler where a step's last rows are too few to be divided.

    The order is that of accelerate's SeedableRandomSampler, which one process uses.
    """

    def __init__(self, rows: int, multiple: int, seed: int) -> None:
        """Of `rows` rows, followed in the data by the filler, up to a `multiple` of numbers."""
        self._rows, self._multiple, self._seed, self._epoch = rows, multiple, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader at the beginning of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._rows // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed + self._epoch))
        yield from order.tolist()
        yield from [self._rows] * (len(self) - self._rows)
