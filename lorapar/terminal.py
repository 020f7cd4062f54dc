"""Progress for people: a moving bar at a terminal, a plain line now and then where there is none (a log, a CI job)."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from lorapar.redaction import redact

PLAIN_LINE_EVERY_SECONDS = 10.0


class BarProgress:
    """Rich bars, one for each piece of work, gone again once the stage is done."""

    def __init__(self, console: Console, prefix: str) -> None:
        self._console = console
        self._prefix = prefix
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a bar; the one before it disappears."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(f"{self._prefix} {title}", total=total, note="")

    def advance(self, units: int = 1, note: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=units, note=note)

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._console.print(f"  {redact(line)}", markup=False, highlight=False)


class LineProgress:
    """Plain lines: at the start of a piece of work, then at most one every ten seconds."""

    def __init__(self, console: Console, prefix: str) -> None:
        self._console = console
        self._prefix = prefix
        self._title = ""
        self._total: int | None = None
        self._done = 0
        self._nobody_reads = False
        self._last_line = time.monotonic()

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def start(self, title: str, total: int | None = None) -> None:
        """Say what begins."""
        self._title, self._total, self._done = title, total, 0
        self._last_line = time.monotonic()
        self._print(f"{title}" + (f" ({total})" if total else ""))

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count, and say so when the last line is some time ago."""
        self._done += units
        now = time.monotonic()
        if now - self._last_line >= PLAIN_LINE_EVERY_SECONDS or self._done == self._total:
            self._last_line = now
            total = f"/{self._total}" if self._total else ""
            self._print(f"{self._title} {self._done}{total}" + (f"  {note}" if note else ""))

    def say(self, line: str) -> None:
        """One line."""
        self._print(line)

    def _print(self, text: str) -> None:
        if self._nobody_reads:
            return
        try:
            self._console.print(f"{self._prefix} {redact(text)}", markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):
            # A closed pipe, for which rich ends the process: whoever read has gone, the work has still to be saved.
            self._nobody_reads = True


def progress_for(console: Console, prefix: str) -> BarProgress | LineProgress:
    """Bars where the console is a terminal, lines elsewhere."""
    return BarProgress(console, prefix) if console.is_terminal else LineProgress(console, prefix)
