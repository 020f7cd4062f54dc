"""How a stage tells what it is doing: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lorapar.records import Omission


class Progress(Protocol):
    """What a stage may say while it works."""

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a piece of work of `total` units (None: unknown)."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some units are done; `note` is a short figure worth showing, such as the loss."""

    def say(self, line: str) -> None:
        """One line that stays on the screen and in the log."""


class Silent:
    """A Progress that says nothing: for tests and for calls from other programs."""

    def start(self, title: str, total: int | None = None) -> None:
        """Says nothing."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Says nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""


def say_omissions(progress: Progress, omissions: Iterable[Omission]) -> None:
    """A line for each that left something out or cut it; a warning where it is half or more."""
    for one in omissions:
        if one.count:
            progress.say(f"{'WARNING: ' if one.is_much else ''}{one.line}")
