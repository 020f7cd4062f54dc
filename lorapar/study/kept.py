"""A finished cell as one small file: enough for the tables, even without its run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lorapar.errors import BadInputError
from lorapar.store import write_atomically
from lorapar.study.cells import Cell
from lorapar.study.folder import StudyFolder
from lorapar.study.results import Cost, Result, Rows, Step, read_result

_FORMAT = 1
_RIGHT, _WRONG, _NOT_ASKED = "+-."


def keep_result(cell: Cell, folder: StudyFolder) -> None:
    """Write the file of a cell whose run has just finished; raises BadInputError for a broken file of the run."""
    result = read_result(cell, folder.run(cell))
    values = {
        "format": _FORMAT,
        "digest": cell.digest,
        "measures": _as_measures(result.rows),
        "regions": result.regions,
        "scores": result.scores,
        "elements": list(result.elements),
        "again": result.again,
        "cost": vars(result.cost),
        "steps": {node: vars(step) for node, step in result.steps.items()},
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    write_atomically(folder.result(cell), f"{{{lines}}}\n")


def result_of(cell: Cell, folder: StudyFolder) -> Result:
    """The result of a finished cell, from its file, or from its run folder if there is no file for these settings.

    Raises BadInputError where neither can be read.
    """
    path = folder.result(cell)
    try:
        values = json.loads(path.read_bytes())
        if (values["format"], values["digest"]) == (_FORMAT, cell.digest):
            return _parsed(cell, values)
        why = "is of other settings or of another version of lorapar"
    except FileNotFoundError:
        why = "is not there"
    except (ValueError, KeyError, TypeError, AttributeError):
        why = "is broken"
    if not folder.has_run(cell):
        raise BadInputError(f"{path}: {why}, and its run folder is gone; delete {path.parent} to run the cell again")
    return read_result(cell, folder.run(cell))


def _parsed(cell: Cell, values: Mapping[str, Any]) -> Result:
    return Result(
        cell=cell,
        rows=_as_rows(values["measures"]),
        regions=dict(values["regions"]),
        scores=dict(values["scores"]),
        elements=tuple(values["elements"]),
        again=dict(values["again"]),
        cost=Cost(**values["cost"]),
        steps={node: Step(**step) for node, step in values["steps"].items()},
    )


def _as_measures(rows: Mapping[tuple[str, str], Rows]) -> dict[str, Any]:
    """For each metric its rows once, and for each model one letter for each row."""
    found: dict[str, Any] = {}
    for measure in dict.fromkeys(measure for _, measure in rows):
        own = {model: right for (model, of), right in rows.items() if of == measure}
        names = list(dict.fromkeys(name for right in own.values() for name in right))
        found[measure] = {
            "rows": names,
            "right": {model: "".join(_letter(right.get(name)) for name in names) for model, right in own.items()},
        }
    return found


def _letter(right: bool | None) -> str:
    return _NOT_ASKED if right is None else _RIGHT if right else _WRONG


def _as_rows(measures: Mapping[str, Any]) -> dict[tuple[str, str], Rows]:
    """The inverse, in the order of each metric's models."""
    return {
        (model, measure): {
            name: letter == _RIGHT for name, letter in zip(kept["rows"], letters, strict=True) if letter != _NOT_ASKED
        }
        for measure, kept in measures.items()
        for model, letters in kept["right"].items()
    }
