"""The runs of a study: each cell of its grid with each seed, as the settings of an ordinary run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from lorapar.config import SYSTEMS, RunConfig, apply_override, dump_changed, parse_settings, validate_settings
from lorapar.config.study import TEACHERS_COUNT, StudyCell, StudyConfig, Values
from lorapar.config.training import PhaseConfig
from lorapar.errors import BadInputError, nearest
from lorapar.records import digest_of

_LONGEST = 200
"""Characters of a folder's name; file systems take 255 bytes."""


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    name: str
    """Name of the cell in tables, the same for every seed."""
    seed: int
    values: Values
    """Its own settings, by section.key."""
    config: RunConfig

    @property
    def id(self) -> str:
        """Name of its folder."""
        return f"{_slug(self.name)}-seed{self.seed}"

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.name}, seed {self.seed}"

    @property
    def digest(self) -> str:
        """Digest of all its settings, except where cells share stages.

        Settings at their defaults are left out: a setting that is new in lorapar leaves earlier results as they are.
        """
        return digest_of(self.config.model_dump(mode="json", exclude={"store"}, exclude_defaults=True))


def fitted(study: StudyConfig, base: RunConfig) -> StudyConfig:
    """The study adapted to these base settings; the report says what was left out, and why.

    Optional cells are left out where the base settings do not allow them. If the base settings name their own systems,
    an order of methods, such as [rl, sft], becomes their phases in that order: all phases of the first method, then all
    of the next. Cells with an order that named phases do not have are left out, and so are the paper's results, which
    belong to its two systems. If the reference is left out, the first remaining cell replaces it. Raises BadInputError
    where no cell remains.
    """
    _refuse_unfit(study, base)
    named = base.system_names != SYSTEMS
    kept: list[StudyCell] = []
    left_out: dict[str, str] = {}
    for cell in study.cells:
        settings = _with_phases(base, cell.settings) if named else cell.settings
        if settings is None:
            left_out[cell.name] = "phases of named systems have no such order"
            continue
        own = cell.model_copy(update={"settings": settings})
        if cell.optional and (why := _why_not(study, base, own)):
            left_out[cell.name] = why
            continue
        kept.append(own)
    if left_out and not kept:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadInputError(f"study {study.name}: no cell fits these settings ({why}); write a study for them")
    changed = _without(study, kept, left_out)
    return _for_named(changed, base) if named else changed


def _refuse_unfit(study: StudyConfig, base: RunConfig) -> None:
    for key, needed in study.needs.items():
        found: Any = base.model_dump(mode="json")
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != needed:
            raise BadInputError(
                f"study {study.name}: its cells are for base settings with {key} {needed}, not {found}; use another "
                "study, or write one for these settings"
            )


def _why_not(study: StudyConfig, base: RunConfig, cell: StudyCell) -> str | None:
    """Why the base settings do not allow a cell; None if they do."""
    origin = _origin(study, cell.name)
    try:
        _cell(study, base, cell.name, cell.settings, study.seeds[0], "store")
    except BadInputError as error:
        return str(error).removeprefix(f"{origin}: ").removeprefix("settings: ")
    return None


def _without(study: StudyConfig, kept: list[StudyCell], left_out: Mapping[str, str]) -> StudyConfig:
    """The study of the remaining cells, with a line for each cell left out and for a new reference."""
    missing = [*study.missing, *(f"The cell “{name}”: {why}." for name, why in left_out.items())]
    reference = study.reference
    if left_out and len(kept) == 1:
        missing.append(f"Comparisons: “{kept[0].name}” alone is left.")
        reference = None
    elif study.compare == "reference" and (was := reference_of(study)) in left_out:
        reference = kept[0].name
        missing.append(
            f"The comparisons with “{was}”, which is left out: cells are compared with “{reference}” instead."
        )
    paper = study.paper
    if paper is not None:
        figures = tuple(one for one in paper.figures if one.cell not in left_out)
        paper = paper.model_copy(update={"figures": figures})
    changed = {"cells": tuple(kept), "paper": paper, "missing": tuple(dict.fromkeys(missing)), "reference": reference}
    return study.model_copy(update=changed)


def _for_named(study: StudyConfig, base: RunConfig) -> StudyConfig:
    """The study without the paper's results, and with orders of methods turned into phases of the base settings."""
    missing = (*study.missing, "The paper's figures: they are of its two systems.") if study.paper else study.missing
    settings, grid = _with_phases(base, study.settings), study.grid
    if "phases" in grid:
        grid = {**grid, "phases": tuple(_in_order(base, order) or order for order in grid["phases"])}
    own = study.settings if settings is None else settings
    return study.model_copy(update={"paper": None, "missing": missing, "settings": own, "grid": grid})


def _with_phases(base: RunConfig, settings: Values) -> Values | None:
    """Settings with an order of methods turned into the base's phases; None where no phase has that order."""
    if settings.get("phases") is None:  # the error is reported with its cell
        return settings
    phases = _in_order(base, settings["phases"])
    return None if phases is None else {**settings, "phases": phases}


def _in_order(base: RunConfig, order: Any) -> Any:
    """The base's phases in an order of methods; None where it has none, the value itself where it is no order."""
    if not isinstance(order, list) or not all(isinstance(one, str) for one in order):
        return order
    named = [phase for phase in base.phases if isinstance(phase, PhaseConfig)]
    found = [[phase.model_dump(mode="json") for phase in named if phase.method == method] for method in order]
    return [phase for phases in found for phase in phases] if all(found) else None


def cells_of(study: StudyConfig, base: RunConfig, store: str) -> list[Cell]:
    """Every cell with every seed, seeds first, so that cells that run in parallel share as little as possible.

    They share stages in `store`. Raises BadInputError naming the study, the cell and the wrong setting, before anything
    runs.
    """
    named = named_cells(study)
    check_names(study, [name for name, _ in named])
    _check_beside(study, base)
    cells = [_cell(study, base, name, values, seed, store) for name, values in named for seed in study.seeds]
    for cell in cells:
        if len(cell.id) > _LONGEST:
            raise BadInputError(
                f"study {study.name}: the cell '{cell.name[:60]}...' would have a folder of {len(cell.id)} characters, "
                f"more than {_LONGEST}; give cells short names under `cells`"
            )
    for what in ("id", "digest"):
        seen: dict[str, Cell] = {}
        for cell in cells:
            other = seen.setdefault(getattr(cell, what), cell)
            if other is not cell:
                same = "come to the same settings" if what == "digest" else "would share a folder"
                raise BadInputError(f"study {study.name}: '{other.label}' and '{cell.label}' {same}; keep one of them")
    return cells


def named_cells(study: StudyConfig) -> list[tuple[str, Values]]:
    """Name and settings of each cell, in the order of the tables."""
    if study.cells:
        return [(cell.name, cell.settings) for cell in study.cells]
    keys = list(study.grid)
    shown = {key: _short(key, keys) for key in keys}
    found = []
    for places in itertools.product(*(range(len(values)) for values in study.grid.values())):
        values = {key: study.grid[key][place] for key, place in zip(keys, places, strict=True)}
        named = [f"{shown[key]} {_value_text(values[key], place)}" for key, place in zip(keys, places, strict=True)]
        found.append((", ".join(named), values))
    return found


def check_names(study: StudyConfig, names: list[str]) -> None:
    """Raise BadInputError where the reference or a figure of the paper names no cell."""
    named = [("reference", study.reference)] if study.reference else []
    named += [("paper.figures", figure.cell) for figure in (study.paper.figures if study.paper else ())]
    for key, name in named:
        if name not in names:
            raise BadInputError(
                f"study {study.name}: {key}: no cell is called '{name}'{nearest(str(name), names)}; "
                f"cells: {'; '.join(names)}"
            )


def _check_beside(study: StudyConfig, base: RunConfig) -> None:
    measures = [*base.system_names, *(one.task for one in base.evaluate.benchmarks), *base.evaluate.judges]
    beside = study.paper.beside if study.paper else measures[0]
    if not any(beside == one or beside.startswith(f"{one}/") for one in measures):
        raise BadInputError(
            f"study {study.name}: paper.beside: nothing is measured as '{beside}'{nearest(beside, measures)}; "
            f"measured: {', '.join(measures)}"
        )


def reference_of(study: StudyConfig) -> str:
    """The cell that others are compared with."""
    return study.reference or named_cells(study)[0][0]


def _short(key: str, keys: list[str]) -> str:
    """The last part of a key, or the whole key where another one has the same ending."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def _value_text(value: Any, place: int) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else f"no. {place + 1}"
        if isinstance(value, list | dict)
        else str(value)
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


def _origin(study: StudyConfig, name: str) -> str:
    """The name of a cell's settings in errors."""
    return f"study {study.name}, {name}"


def _cell(study: StudyConfig, base: RunConfig, name: str, values: Values, seed: int, store: str) -> Cell:
    origin = _origin(study, name)
    settings = settings_with(base, {**study.settings, **values}, origin)
    settings["seed"] = seed
    settings["if_changed"] = False
    _section(settings, "registry")["address"] = None  # the registry in the cell's own folder
    _section(settings, "gate")["promote"] = False
    _section(settings, "store")["address"] = store
    config = validate_settings(settings, origin)
    if config.system_names != base.system_names:
        raise BadInputError(f"{origin}: cells have the systems of the base settings; leave `systems` out of them")
    return Cell(name, seed, dict(values), config)


def _set(settings: dict[str, Any], key: str, value: Any, origin: str) -> None:
    try:
        apply_override(settings, f"{key}={json.dumps(value)}")
    except BadInputError as error:  # which speaks of the option --set
        raise BadInputError(f"{origin}: {str(error).removeprefix('--set ')}") from None


def settings_with(base: RunConfig, values: Values, origin: str) -> dict[str, Any]:
    """The base settings with values by `section.key`, not yet checked; `origin` is what errors call them."""
    settings = parse_settings(dump_changed(base), origin)
    for key, value in values.items():
        if isinstance(getattr(base, key, None), BaseModel):  # it would undo what the base settings say of the section
            raise BadInputError(f"{origin}: {key}: is a section; write {key}.KEY for each of its keys")
        if key == TEACHERS_COUNT:
            settings["teachers"] = _first_teachers(base, value, origin)
        else:
            _set(settings, key, value, origin)
    return settings


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    section: dict[str, Any] = settings.setdefault(name, {})
    return section


def _first_teachers(base: RunConfig, count: Any, origin: str) -> list[Mapping[str, Any]]:
    if not isinstance(count, int) or not 1 <= count <= len(base.teachers):
        raise BadInputError(
            f"{origin}: {TEACHERS_COUNT}: must be a whole number from 1 to {len(base.teachers)}, the teachers of the "
            f"base settings (got {count!r})"
        )
    return [teacher.model_dump(mode="json", exclude_defaults=True) for teacher in base.teachers[:count]]
