"""Numbers as text: one way to write a share, a change, a p-value or a time, on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.config.training import Phases, phase_text

NOTHING = "–"  # noqa: RUF001
"""What stands where there is no metric."""

# Models write any byte: U+2400 and on are the pictures of U+0000 to U+001F; C1 codes and DEL have none of their own.
_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"} | dict.fromkeys(
    range(0x7F, 0xA0), "\ufffd"
)

SYSTEM_NAMES = {"system1": "System 1", "system2": "System 2"}
MODELS = ("base", "after_sft", "after_rl")
"""The models that a run compares, in the order in which they are made."""
MODEL_NAMES = {"base": "base", "after_sft": "after SFT", "after_rl": "after RL", "incumbent": "incumbent"}


def system_name(system: str | None) -> str:
    """`System 1` for `system1`; other names as they are."""
    return "held out" if system is None else SYSTEM_NAMES.get(system, system)


def systems_in(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """The systems that an evaluation's figures (by model) are about, in their order; the two where there are none."""
    found = next((one for one in evaluation.values() if isinstance(one, Mapping) and "seconds_per_answer" in one), {})
    names = [name.removesuffix("_rows") for name in found if name.endswith("_rows")]
    return SYSTEMS if set(names) <= set(SYSTEMS) else tuple(names)


def model_name(model: str) -> str:
    """`after SFT` for `after_sft`; other names as they are."""
    return MODEL_NAMES.get(model, model)


def is_number(value: Any) -> bool:
    """Whether it is a finite number (True and False are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(value: Any, digits: int = 1) -> str:
    """A share of 1 as `90.6%`."""
    return f"{100 * value:.{digits}f}%" if is_number(value) else NOTHING


def interval(bounds: Any, digits: int = 1) -> str:
    """Two shares of 1 as `81.0–95.6%`."""
    if not bounds or not all(map(is_number, bounds)):
        return NOTHING
    low, high = bounds
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}%"  # noqa: RUF001


def points(value: Any, digits: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign: `+31.2`."""
    if not is_number(value):
        return NOTHING
    rounded = round(100 * value, digits) + 0.0
    return "0" if rounded == 0 else f"{rounded:+.{digits}f}".replace("-", "−")  # noqa: RUF001


def p_value(value: Any) -> str:
    """`p < 0.001` or `p = 0.45`."""
    if not is_number(value):
        return NOTHING
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def number(value: Any) -> str:
    """A count with its thousands apart, another number with four significant digits."""
    if not is_number(value):
        return NOTHING
    exact = isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15)
    return f"{int(value):,}" if exact else f"{value:.4g}"


def duration(seconds: Any) -> str:
    """A time: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 03 min`."""
    if not is_number(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def decimal_seconds(seconds: Any) -> str:
    """A short time to two significant digits: `0.012 s`, `1.3 s`, `25 s`."""
    return f"{float(f'{seconds:.2g}'):g} s" if is_number(seconds) else NOTHING


def size(size_bytes: Any) -> str:
    """A number of bytes: `1.2 GB`."""
    from rich.filesize import decimal

    return decimal(int(size_bytes)) if is_number(size_bytes) and size_bytes > 0 else NOTHING


def count_of(count: int, one: str, several: str | None = None) -> str:
    """`1 row`, `12 rows`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, and how many were cut; control characters, which no page may hold, as pictures."""
    cut = text if len(text) <= limit else f"{text[:limit].rstrip()} … ({len(text) - limit:,} more characters)"
    return cut.translate(_CONTROL_PICTURES)


def phases_text(phases: Phases) -> str:
    """The order in which a run trained: `sft, rl`."""
    return ", ".join(map(phase_text, phases))
