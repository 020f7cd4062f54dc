"""Training in several processes: their shares of a step, what fails in one of them, and the rows of each.

A step has the same rows however many processes share it, so their number is no part of what a stage makes: a run begun
with some goes on with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorapar.config import RlConfig, SftConfig
from lorapar.errors import BadInputError, LoraparError, StorageError, UnreachableError
from lorapar.ranks import Ranks
from lorapar.training.own_rewards import RewardError
from lorapar.training.shares import best_share


class OtherRankError(RewardError):
    """Another process failed, and says why."""


class OtherRankRefusedError(BadInputError):
    """Another process failed in a way that the same command would not go on from, and says why."""


class RolloutsLostError(UnreachableError):
    """The server that samples the completions does not answer, or refuses, in the middle of training."""


class StoppedWaitingError(RolloutsLostError):
    """SIGTERM came while a lost server was waited for."""


class RolloutsUnsentError(StorageError):
    """The adapter cannot be written to where the server that samples the completions would get it from."""


KEPT = (RewardError, RolloutsLostError, RolloutsUnsentError)
"""Errors that say nothing against the adapter: the state before the step is kept, and the same command goes on."""


@contextmanager
def failing_together(what: str = "a reward", kinds: tuple[type[LoraparError], ...] = (RewardError,)) -> Iterator[None]:
    """An error of these kinds in one process is one in all, so that all can save what the next call goes on from.

    Saving takes all of them: where one has an error that is not among KEPT, no process raises one that is.
    """
    failure: LoraparError | None = None
    try:
        yield
    except kinds as error:
        failure = error
    refuses = failure is not None and not isinstance(failure, KEPT)
    failed, refused = Ranks.here().any(failure is not None, refuses)
    if refused and not refuses:
        raise OtherRankRefusedError(f"{what} failed in another process") from failure
    if failed:
        raise failure or OtherRankError(f"{what} failed in another process")


def shared_arguments(config: SftConfig | RlConfig) -> dict[str, Any]:
    """Settings of TRL that depend on how many processes there are; none for one."""
    count = Ranks.here().count
    if count == 1:
        return {}
    share = best_share(config, count)
    if share.processes != count:
        raise AssertionError(f"a step cannot be divided among {count} processes")
    shared: dict[str, Any] = {
        "per_device_train_batch_size": share.batch_size,
        "gradient_accumulation_steps": share.gradient_accumulation,
        "average_tokens_across_devices": True,
    }
    if isinstance(config, RlConfig):
        shared["steps_per_generation"] = share.gradient_accumulation
    return shared


class FilledSampler(torch.utils.data.Sampler[int]):
    """All rows in a random order, again in each epoch, and a filler where a step's last rows are too few to be divided.

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
