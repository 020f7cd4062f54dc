"""A Progress for tests that look at what a person would be told."""

from __future__ import annotations

from lorapar.progress import Silent


class Notes(Silent):
    """A Progress that remembers, and can press Ctrl-C after some steps."""

    def __init__(self, stop_after_steps: int | None = None) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.total: int | None = None
        self._stop_after_steps = stop_after_steps

    def start(self, title: str, total: int | None = None) -> None:
        """Remember how many steps there are."""
        self.total = total

    def advance(self, units: int = 1, note: str = "") -> None:
        """Remember a step's note."""
        self.notes.append(note)
        if len(self.notes) == self._stop_after_steps:
            raise KeyboardInterrupt

    def log(self, line: str) -> None:
        """Remember a line."""
        self.lines.append(line)
