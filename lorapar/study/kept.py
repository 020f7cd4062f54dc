"""A finished cell as one small file: enough for the tables, even without its run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from lorapar import __version__
from lorapar.errors import BadInputError
from lorapar.study.cells import Cell
from lorapar.study.folder import StudyFolder
from lorapar.study.results import Cost, Result, Rows, Step, read_result

_RIGHT, _WRONG, _NOT_ASKED = "+-."


class _Measure(BaseModel):
    """One metric: its rows, and for each model one letter for each row."""

    rows: list[str]
    right: dict[str, str]

    @model_validator(mode="after")
    def _a_letter_for_each_row(self) -> _Measure:
        if any(len(letters) != len(self.rows) for letters in self.right.values()):
            raise ValueError("as many letters as rows")
        return self


class _Kept(BaseModel):
    """The file of a cell."""

    format: Literal[1]
    digest: str
    measures: dict[str, _Measure]
    regions: dict[str, float]
    scores: dict[str, list[float]]
    elements: tuple[Any, ...]
    again: dict[str, float]
    cost: Cost
    steps: dict[str, Step]

    def result(self, cell: Cell) -> Result:
        """As it was read from the run."""
        named = ("regions", "scores", "elements", "again", "cost", "steps")
        return Result(cell=cell, rows=_as_rows(self.measures), **{name: getattr(self, name) for name in named})


def keep_result(cell: Cell, folder: StudyFolder, until: str) -> None:
    """Write the file of a cell whose run has just finished; raises BadInputError for a broken file of the run."""
    write_result(read_result(cell, folder.run(cell)), folder, until)


def write_result(result: Result, folder: StudyFolder, until: str) -> None:
    """Write the file of a finished cell, in the place of an earlier one; its run ended with the node `until`."""
    values = {
        "format": 1,
        "digest": result.cell.digest,
        "version": __version__,
        "until": until,
        "measures": _as_measures(result.rows),
        "regions": result.regions,
        "scores": result.scores,
        "elements": list(result.elements),
        "again": result.again,
        "cost": vars(result.cost),
        "steps": {node: vars(step) for node, step in result.steps.items()},
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    folder.write_result(result.cell, f"{{{lines}}}\n")


def result_of(cell: Cell, folder: StudyFolder) -> Result:
    """The result of a finished cell, from its file, or from its run folder if there is no file for these settings.

    Raises BadInputError where neither can be read.
    """
    path = folder.result(cell)
    try:
        kept = _Kept.model_validate_json(path.read_bytes())
        if kept.digest == cell.digest:
            return kept.result(cell)
        why = "is of other settings"
    except FileNotFoundError:
        why = "is not there"
    except ValidationError as error:
        (first, *_) = error.errors()
        why = f"is broken or of another version of lorapar ({'.'.join(map(str, first['loc'])) or first['msg']})"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    if not folder.has_run(cell):
        raise BadInputError(f"{path}: {why}, and its run folder is gone; delete {path.parent} to run the cell again")
    return read_result(cell, folder.run(cell))


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


def _as_rows(measures: Mapping[str, _Measure]) -> dict[tuple[str, str], Rows]:
    """The inverse, in the order of each metric's models."""
    return {
        (model, measure): {
            name: letter == _RIGHT for name, letter in zip(kept.rows, letters, strict=True) if letter != _NOT_ASKED
        }
        for measure, kept in measures.items()
        for model, letters in kept.right.items()
    }
