"""Fields inside cells: `reward_model.ground_truth` is what a structure in the column `reward_model` holds there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lorapar.data.written import read_written

_DEPTH = 3


def inner(row: dict[str, Any], name: str) -> Any:
    """The value of a column, or of a field inside one, with names joined by points; None where it does not exist.

    A column whose own name has points wins. For a list of structures it is the list of their fields; structures may be
    written as text, as in CSV.
    """
    return row.get(name) if name in row or "." not in name else _within(row, name.split("."))


def with_inner(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A row with those fields as columns of their own."""
    missing = [name for name in names if "." in name and name not in row]
    return {**row, **{name: inner(row, name) for name in missing}} if missing else row


def inner_names(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The names of all fields inside the cells of these rows, in order of occurrence, without those in lists."""
    found: dict[str, None] = {}
    for row in rows:
        for name, cell in row.items():
            found |= dict.fromkeys(_names(name, cell, _DEPTH))
    return list(found)


def shown_names(columns: Collection[str], nested: Sequence[str]) -> str:
    """The columns for a message; columns with structures are shown by their fields."""
    shown: list[str] = []
    for column in columns:
        shown += [name for name in nested if name.startswith(f"{column}.")] or [column]
    return ", ".join(shown)


def structure_of(cell: Any) -> dict[str, Any] | None:
    """The structure in a cell or in its text; None where there is none."""
    if isinstance(cell, str):
        cell = read_written(cell)
    return cell if isinstance(cell, dict) and cell and all(isinstance(name, str) for name in cell) else None


def _within(cell: Any, names: Sequence[str]) -> Any:
    for place, name in enumerate(names):
        if isinstance(cell, list | tuple):
            found = [_within(one, names[place:]) for one in cell]
            return [one for one in found if one is not None] or None
        structure = structure_of(cell)
        if structure is None or name not in structure:
            return None
        cell = structure[name]
    return cell


def _names(name: str, cell: Any, depth: int) -> list[str]:
    structure = structure_of(cell) if depth else None
    if structure is None:
        return [] if depth == _DEPTH else [name]
    return [found for key, value in structure.items() for found in _names(f"{name}.{key}", value, depth - 1)]
