"""What a generated program may use, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "timed_out", "too_much_output", "too_much_disk", "died"]


@dataclass(frozen=True)
class Limits:
    """Limits of one program; it is killed, or its system call fails, where it passes one."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    """CPU time of all its threads, in whole seconds (a kernel limit counts nothing finer)."""
    memory_bytes: int = 1 << 30
    """Address space; the interpreter itself takes about 30 MB of it."""
    processes: int = 16
    """Threads. No second process can be started where the seccomp layer is there."""
    file_bytes: int = 16 << 20
    """Longest file it may write."""
    scratch_bytes: int = 64 << 20
    """All files of its scratch folder together; looked at every 50 ms, so a little more can be written in between."""
    output_bytes: int = 64 << 10
    """What it may print; more ends it."""
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    status: Status
    detail: str
    """The last line of what it printed, or the signal or limit that ended it; at most 500 characters, printable."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it ran to its last line without an exception."""
        return self.status == "passed"
