"""Names and values as every tracker takes them: nothing that one of them would refuse, or lose a whole step by."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_BAD_IN_NAMES = re.compile(r"[^\w\-./: ]", re.ASCII)
LONGEST_NAME = 250
LONGEST_TAG = 5000
_LONGEST_PARAMETER = 500
"""MLflow's oldest servers take no more; a longer one is cut there, and whole in config.yaml beside it."""
_BATCH = 100


def of_a_step(logs: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """What a trainer logs, as numbers that MLflow stores unchanged, and the rest (infinity, words) as text."""
    stored: dict[str, float] = {}
    others: dict[str, str] = {}
    for name, value in unique_names(logs).items():
        if isinstance(value, int | float) and not math.isinf(value):
            stored[name] = float(value)
        else:
            others[name] = str(value)
    return stored, others


def unique_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under names that every tracker takes; two that become alike are told apart by a number."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = _plain(name)
        unlike, number = plain, 2
        while unlike in found:
            unlike, number = f"{plain}_{number}", number + 1
        found[unlike] = value
    return found


def _plain(name: str) -> str:
    """MLflow refuses a name that is no path in its shortest form: `a/`, `a//b`, `./a`, `..a`."""
    parts = _BAD_IN_NAMES.sub("_", name)[: LONGEST_NAME - 6].split("/")
    kept = [f"_{part}" if part.startswith(".") else part for part in parts if part]
    return "/".join(kept) or "_"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists with their paths, joined by dots."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping | list | tuple) for one in value):
        for position, inner in enumerate(value):
            yield from flat(inner, f"{name}.{position}")
    else:
        yield name, value


def steps_of(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of a history: the step's number, and what belongs to it under names that every tracker takes."""
    for line in steps:
        yield int(line["step"]), unique_names({name: value for name, value in line.items() if name != "step"})


def cut(text: str) -> str:
    """A setting's value at most as long as every server takes."""
    end = "… (whole in config.yaml)"
    return text if len(text) <= _LONGEST_PARAMETER else text[: _LONGEST_PARAMETER - len(end)] + end


def cell(text: str) -> str:
    """A value as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def batches(values: Sequence[Any]) -> Iterator[list[Any]]:
    """As many as a server takes at once."""
    for start in range(0, len(values), _BATCH):
        yield list(values[start : start + _BATCH])


def table_of(lines: Path) -> dict[str, Any]:
    """JSON Lines as the table that MLflow reads: columns and rows; an object in a line has a column for each key."""
    rows: list[dict[str, Any]] = []
    for line in lines.read_text(encoding="utf-8").splitlines():
        flat: dict[str, Any] = {}
        for name, value in json.loads(line).items():
            flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        rows.append(flat)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
