"""How a stage reports what it is doing: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lorapar.records import Omission


class Progress(Protocol):
    """What a stage may report while it works."""

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a piece of work of `total` units (None: unknown)."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some units are done; `note` is a short metric worth showing, such as the loss."""

    def log(self, line: str) -> None:
        """One line that stays on the screen and in the log."""


class Silent:
    """A Progress that prints nothing: for tests and for calls from other programs."""

    def start(self, title: str, total: int | None = None) -> None:
        """Prints nothing."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Prints nothing."""

    def log(self, line: str) -> None:
        """Prints nothing."""


def log_omissions(progress: Progress, omissions: Iterable[Omission]) -> None:
    """A line for each that left something out or cut it; a warning where it is half or more."""
    for one in omissions:
        if one.count:
            progress.log(f"{'WARNING: ' if one.is_much else ''}{one.line}")
