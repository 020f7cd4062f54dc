"""This process among those that share one stage: the values they agree on, exchange and sum.

A stage makes the same whatever their number, but for rounding. The first process writes; the others compute.
torch is imported when a function is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=24)
"""For another process, which may wait for a server that is lost, or for a judge; one that dies ends the others."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together; one that works alone is the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """As torch's process group says; a process that has not imported torch can be in none."""
        if "torch.distributed" not in sys.modules:
            return cls()
        import torch.distributed as dist

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

    def texts(self, text: str) -> list[str]:
        """Every process's text, by rank."""
        if self.count == 1:
            return [text]
        import torch
        import torch.distributed as dist

        data = text.encode()
        longest = self._most([len(data)])[0]
        own = torch.zeros(8 + longest, dtype=torch.uint8)
        own[:8] = torch.tensor(list(len(data).to_bytes(8, "little")), dtype=torch.uint8)
        own[8 : 8 + len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else own[:0]
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=_cpu_group())
        return [_text(bytes(one.tolist())) for one in found]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give the first process the sums over all processes, in place; those of the others are no longer of use."""
        if self.count == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.reduce(tensor, 0)

    def share(self, parts: Sequence[T]) -> list[T]:
        """This process's parts of some work, every so many of them."""
        return list(parts[self.rank :: self.count])

    def folder(self, scratch: Path) -> Path:
        """Where this process keeps lines as they come: the scratch folder, or of all but the first one in it."""
        folder = scratch if self.first else scratch / f"rank-{self.rank}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _most(self, values: list[int]) -> list[int]:
        if self.count == 1:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_cpu_group())
        return [int(value) for value in tensor]


def gather_lines(scratch: Path) -> None:
    """Put what other processes of an earlier call kept behind what the first one kept; by one process, before others.

    A call that is killed here may leave lines in both places: who reads them takes the first of two that say the same.
    """
    for path in sorted(scratch.glob("rank-*/*.jsonl")):
        data = path.read_bytes()
        target = scratch / path.name
        with target.open("ab+") as file:
            # A line that was cut off by a kill would swallow the one behind it.
            file.seek(0)
            whole = file.read().rpartition(b"\n")
            file.truncate(len(whole[0]) + len(whole[1]))
            file.write(data[: data.rfind(b"\n") + 1])
        path.unlink()


def _text(data: bytes) -> str:
    return data[8 : 8 + int.from_bytes(data[:8], "little")].decode()


@cache
def _cpu_group() -> Any:
    """A group for small numbers: on GPUs those of the gradients would have to wait for the device."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
