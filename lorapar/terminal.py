"""Progress for people: a moving bar at a terminal, a plain line now and then where there is none (a log, a CI job)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO
from unicodedata import category

from lorapar.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

PLAIN_LINE_EVERY_SECONDS = 10.0
_CONTROLS = dict.fromkeys((7, 8, 11, 12, 13, 27, *range(0x80, 0xA0)))
"""Bell, backspace, what moves the cursor and what begins a command to the terminal: a line stays one."""
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_KEPT = "\n\t\u200c\u200d"


class BarProgress:
    """Rich bars, one for each piece of work, gone again once the stage is done."""

    def __init__(self, console: Console, prefix: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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

    def log(self, line: str) -> None:
        """A line above the bars."""
        self._console.print(f"  {redact(line).translate(_CONTROLS)}", highlight=False)


class LineProgress:
    """Plain lines: at the start of a piece of work, then at most one every ten seconds. Rich is not needed for them."""

    def __init__(self, prefix: str, stream: TextIO | None = None) -> None:
        """Lines that begin with `prefix`, to `stream` or to standard output."""
        self._stream = stream
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

    def log(self, line: str) -> None:
        """One line."""
        self._print(line)

    def _print(self, text: str) -> None:
        if self._nobody_reads:
            return
        stream = self._stream or sys.stdout
        try:
            stream.write(f"{self._prefix} {redact(text).translate(_CONTROLS)}\n")
            stream.flush()
        except OSError:
            # A closed pipe: the reader has gone, the work still has to be saved.
            self._nobody_reads = True
            with suppress(OSError):
                discard(stream)


def harmless(text: str) -> str:
    """A model's text without what a terminal would obey: control characters, changes of direction, other line ends.

    Joiners stay, which scripts and emoji need.
    """
    text = text.replace("\r\n", "\n")
    return "".join("?" if category(letter) in _OBEYED and letter not in _KEPT else letter for letter in text)


class SideBySide:
    """Texts in columns that grow while they are written; where nothing can be redrawn, each as a whole once it ends."""

    def __init__(self, console: Console, names: Sequence[str], *, redraws: bool) -> None:
        """Columns with these headings."""
        from rich.live import Live

        self._console, self._names, self._texts = console, names, [""] * len(names)
        self._live = Live(console=console, refresh_per_second=8, vertical_overflow="visible") if redraws else None

    def __enter__(self) -> SideBySide:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def grow(self, place: int, text: str) -> None:
        """A column's text so far."""
        self._texts[place] = harmless(redact(text))
        if self._live is not None:
            self._live.update(self._drawn())

    def finish(self, place: int, text: str) -> None:
        """A column's whole text."""
        self.grow(place, text)
        if self._live is None:
            line = f"{self._names[place]}: {self._texts[place]}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _drawn(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(*self._names, expand=True, header_style="bold")
        table.add_row(*map(Text, self._texts))
        return table


class Column:
    """One column as transformers' `generate` writes into it, token by token."""

    def __init__(self, shown: SideBySide, place: int, text_of: Callable[[list[int]], str]) -> None:
        """`text_of` decodes the tokens so far."""
        self._shown, self._place, self._text_of = shown, place, text_of
        self._tokens: list[int] | None = None

    def put(self, tokens: Any) -> None:
        """The prompt, and then each token of the answer (a tensor)."""
        if self._tokens is None:
            self._tokens = []
            return
        self._tokens += tokens.reshape(-1).tolist()
        self._shown.grow(self._place, self._text_of(self._tokens))

    def end(self) -> None:
        """Nothing more comes."""


def discard(stream: TextIO) -> None:
    """Let what is still in a stream's buffer go nowhere, or Python would fail on it when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
