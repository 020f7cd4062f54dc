"""Time and peak memory of every stage, as a table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorapar.report.formats import duration, size
from lorapar.report.sources import Facts, Figures


def cost_section(facts: Facts) -> dict[str, Any] | None:
    """Rows of the table and their sums; None before the run has ended."""
    if not facts.timings:
        return None
    longest = max(_number(one, "seconds") for one in facts.timings) or 1.0
    largest = max(_number(one, "peak_memory_bytes") for one in facts.timings) or 1.0
    reused = [one for one in facts.timings if one.get("reused")]
    return {
        "rows": [_row(one, longest, largest) for one in facts.timings],
        "total": duration(_total(facts.timings)),
        "this_run": duration(_total([one for one in facts.timings if not one.get("reused")])),
        "peak": size(largest),
        "reused": f"{len(reused)} of them {'was' if len(reused) == 1 else 'were'} reused" if reused else None,
    }


def _row(one: Figures, longest: float, largest: float) -> dict[str, Any]:
    seconds, memory = _number(one, "seconds"), _number(one, "peak_memory_bytes")
    return {
        "node": one.get("node") or one.get("stage"),
        "reused": bool(one.get("reused")),
        "time": duration(one.get("seconds")),
        "time_share": f"{100 * seconds / longest:.1f}",
        "memory": size(one.get("peak_memory_bytes")),
        "memory_share": f"{100 * memory / largest:.1f}",
    }


def _total(timings: Sequence[Figures]) -> float:
    return sum(_number(one, "seconds") for one in timings)


def _number(one: Figures, key: str) -> float:
    return float(one.get(key) or 0.0)
