"""The figures of the benchmarks in one Markdown table: what, its bound, earlier, now, and the ratio of both.

A benchmark names its figures with the fixture `figure` of `conftest.py`. "Earlier" is what `what` is compared with: the
build of an earlier commit, the way before, or the same work done without lorapar.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import date
from math import inf
from pathlib import Path
from typing import Literal

HEAD = "| what | bound | earlier | now | ratio |\n|---|---|---|---|---|\n"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "svebf16")
_NATIVE_BFLOAT16 = _FLAGS[2:]


@dataclass(frozen=True)
class Bound:
    """Between what a figure must lie."""

    least: float
    most: float
    of: Literal["ratio", "speed", "now"] = "ratio"
    """now / earlier; earlier / now, so many times as fast; or what was measured now by itself."""

    def text(self, unit: str) -> str:
        """As the table shows it."""
        after = {"ratio": "", "speed": " times as fast", "now": f" {unit}"}[self.of]
        if self.least == -inf:
            return f"≤ {self.most:g}{after}"
        return f"≥ {self.least:g}{after}" if self.most == inf else f"{self.least:g} to {self.most:g}{after}"


def at_most(ratio: float) -> Bound:
    """Of what was measured earlier."""
    return Bound(-inf, ratio)


def at_least(ratio: float) -> Bound:
    """Of what was measured earlier, where more is better."""
    return Bound(ratio, inf)


def within(share: float) -> Bound:
    """No more than this share above or below what was measured earlier."""
    return Bound(round(1 - share, 6), round(1 + share, 6))


def times_as_fast(times: float) -> Bound:
    """At least so many times as fast as earlier; both figures are times."""
    return Bound(times, inf, "speed")


def now_at_most(value: float) -> Bound:
    """Of this build alone, in the figure's unit."""
    return Bound(-inf, value, "now")


def now_at_least(value: float) -> Bound:
    """Of this build alone, in the figure's unit."""
    return Bound(value, inf, "now")


@dataclass(frozen=True)
class Figure:
    """A row of the table; `earlier` is None where there is nothing to compare with, `bound` where nothing is asked."""

    what: str
    earlier: float | None
    now: float
    bound: Bound | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """What was measured now, in what was measured earlier."""
        return self.now / self.earlier if self.earlier else None

    @property
    def missed(self) -> bool:
        """Whether the bound was not kept; a ratio of nothing keeps none."""
        if self.bound is None:
            return False
        if self.bound.of == "now":
            found: float | None = self.now
        elif self.ratio is None:
            found = None
        else:
            found = self.ratio if self.bound.of == "ratio" else 1 / self.ratio
        return found is None or not self.bound.least <= found <= self.bound.most

    @property
    def row(self) -> str:
        """The figure as a line of the table."""
        asked = self.bound.text(self.unit) if self.bound else ""
        cells = (
            _escaped(self.what),
            asked + (" **missed**" if self.missed else ""),
            *map(self._shown, (self.earlier, self.now)),
        )
        return "| " + " | ".join((*cells, self._ratio_shown())) + " |"

    def _shown(self, value: float | None) -> str:
        return "" if value is None else f"{value:{'.3f' if abs(value) < 1 else '.2f'}} {self.unit}".rstrip()

    def _ratio_shown(self) -> str:
        if self.ratio is None:
            return ""
        speed = self.bound is not None and self.bound.of == "speed"
        return f"{1 / self.ratio:.2f} times as fast" if speed else f"{self.ratio:.2f}"


def not_measured(name: str, why: str) -> str:
    """The line of a benchmark that gave no figure."""
    return f"| `{name}` | not measured: {_escaped(why)} | | | |"


def failed_after(name: str) -> str:
    """The line of a benchmark whose figures are not all it should have given, though they kept their bounds."""
    return f"| `{name}` | failed after these figures | | | |"


def _escaped(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def joined(rows: list[str], table: Path | None) -> str:
    """The table with these rows at its end; `table` is the file that holds it, and those of earlier processes."""
    if table is None:
        return HEAD + "".join(f"{row}\n" for row in rows)
    if not table.is_file() or not table.stat().st_size:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(f"{machine()}\n\n{HEAD}", encoding="utf-8")
    with table.open("a", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for row in rows)
    return table.read_text(encoding="utf-8")


def machine() -> str:
    """The date and what ratios depend on: the processor, and which of the instructions for number formats it has."""
    found = re.search(r"^model name\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    own = [flag for flag in _FLAGS if flag in _flags()]
    return (
        f"{date.today()}, {os.cpu_count()} processors, {found[1] if found else 'unknown'}: {', '.join(own) or 'none'}"
    )


def native_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16, fast or not."""
    return not _flags().isdisjoint(_NATIVE_BFLOAT16)


def _flags() -> set[str]:
    """What Linux says that the processor can do."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8")
