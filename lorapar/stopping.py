"""SIGTERM (preemption, a node being drained): at once, or after the step under way where a stage asks for that.

Most stages have on disk what they did and are left at once. Training is not: a step that is thrown away and a state
that is a minute old cost time, so it finishes its step, saves, and ends then. A second signal stops it at once too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lorapar.errors import Terminated


@dataclass
class StopRequest:
    """Whether somebody wants the work to end at its next good moment."""

    requested: bool = False


_listening: list[StopRequest] = []


def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM: ends after the step under way where the code at work asks for that; else raises Terminated."""
    if not _listening or _listening[-1].requested:
        raise Terminated
    _listening[-1].requested = True


def stop_requested() -> bool:
    """Whether SIGTERM has come and the code at work ends after its step: what only waits is to end now."""
    return bool(_listening) and _listening[-1].requested


@contextmanager
def finishing_steps() -> Iterator[StopRequest]:
    """While the block lasts SIGTERM only sets `requested`; who enters it looks at that after every step."""
    request = StopRequest()
    _listening.append(request)
    try:
        yield request
    finally:
        _listening.remove(request)
