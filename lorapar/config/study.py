"""A study: ordinary runs over a grid of settings and seeds, with the paper's numbers beside them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from lorapar.config.base import Fraction, Name, Positive, Section
from lorapar.config.load import parse_settings, read_text
from lorapar.config.mistakes import validated
from lorapar.errors import BadInputError, nearest

TEACHERS_COUNT = "teachers.count"
"""The one key that is no setting: how many of the base settings' teachers vote, the first ones."""
_STUDIES = "studies"
OF_THE_STUDY = {
    "seed": "seeds names the seeds",
    "name": "cells have names of their own",
    "store": "--store says where cells share stages",
    "registry": "cells publish into their own folders",
    "gate": "no cell is promoted",
    "if_changed": "it is for runs in Kubeflow",
}
"""Sections that no cell may set, and why."""

CellName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+,=/-]{0,79}$")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Values = dict[str, JsonValue]
"""Settings by `section.key`."""


class PaperFigure(Section):
    """One number that the paper gives for a model, beside which ours of a cell stands."""

    cell: CellName = Field(description="Cell that it stands beside")
    model: Literal["base", "after_sft", "after_rl"] = Field(description="Model of that cell")
    value: Fraction = Field(description="The paper's figure, as a share of 1")


class PaperTable(Section):
    """What the paper measured of the same question."""

    source: str = Field(description="Table, model and data of the paper")
    measure: str = Field(description="What the figures are shares of")
    beside: str = Field("system2", description="Our measure that they stand beside: a system or a benchmark")
    figures: tuple[PaperFigure, ...] = Field(description="The figures")


class StudyCell(Section):
    """One cell that has a name instead of a place in a grid."""

    name: CellName = Field(description="Name in tables")
    settings: Values = Field({}, description="What it sets, by section.key")
    optional: bool = Field(
        False, description="Leave it out, and say so in the report, where the base settings do not allow what it sets"
    )


class StudyConfig(Section):
    """A study: cells (a grid, or named one by one), seeds, and how they are compared."""

    name: Name = Field(description="Name of the study")
    title: str = Field(description="The question it answers, in one line")
    until: Literal["partition", "execute"] = Field(
        "execute", description="Last stage of each cell: everything up to evaluation, or the partition alone"
    )
    settings: Values = Field({}, description="Settings of every cell by section.key, on top of the base settings")
    needs: Values = Field({}, description="What the base settings must have, by section.key; others are refused")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field((0, 1, 2), description="Seeds of every cell")
    grid: dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = Field(
        {}, description="Values of each section.key; every combination is a cell"
    )
    cells: tuple[StudyCell, ...] = Field((), description="Cells by name, instead of a grid")
    compare: Literal["reference", "pairs"] = Field(
        "reference", description="Compare each cell with one of them, or every two"
    )
    reference: CellName | None = Field(None, description="The cell others are compared with; absent: the first")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="Level of tests and intervals")
    paper: PaperTable | None = Field(None, description="Figures of the paper")
    missing: tuple[str, ...] = Field((), description="What the paper has and lorapar has no setting for, a line each")
    parallel: Positive = Field(1, description="Cells at a time, where --parallel does not say")

    @model_validator(mode="after")
    def _cells_are_named_once(self) -> StudyConfig:
        if bool(self.grid) == bool(self.cells):
            raise ValueError("grid or cells: give one of the two")
        names: tuple[int | str, ...] = tuple(cell.name for cell in self.cells)
        for what, given in (("seeds", self.seeds), ("cells", names)):
            twice = [one for place, one in enumerate(given) if one in given[:place]]
            if twice:
                raise ValueError(f"{what}: {twice[0]} is there twice; keep one")
        for key in self.settings:
            if key in self.grid:
                raise ValueError(f"settings: {key} is in grid too; leave one of them out")
        if self.compare == "pairs" and self.reference is not None:
            raise ValueError("reference: does nothing where compare is pairs; leave one of them out")
        return self

    @model_validator(mode="after")
    def _keys_are_of_a_cell(self) -> StudyConfig:
        for key in (*self.settings, *self.grid, *(key for cell in self.cells for key in cell.settings)):
            if "=" in key or not all(key.split(".")):
                raise ValueError(f"'{key}' is no setting; write it as section.key")
            reason = OF_THE_STUDY.get(key.partition(".")[0])
            if reason is not None:
                raise ValueError(f"{key}: a study sets it itself ({reason}); leave it out")
        return self


def study_names() -> list[str]:
    """Names of the studies that ship with the package, sorted."""
    files = resources.files("lorapar.presets").joinpath(_STUDIES).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def study_text(name: str) -> str:
    """The YAML of a study that ships with the package; raises BadInputError with the nearest right name."""
    known = study_names()
    if name not in known:
        raise BadInputError(
            f"no study is called '{name}'{nearest(name, known)}; known: {', '.join(known)}; "
            "a study of your own is named by the path of its YAML file"
        )
    file = resources.files("lorapar.presets").joinpath(_STUDIES, f"{name}.yaml")
    return file.read_text(encoding="utf-8")


def load_study(name: str) -> StudyConfig:
    """A study by its name, or of a YAML file by its path; raises BadInputError in one line."""
    if not name.endswith((".yaml", ".yml")):
        return parse_study(study_text(name), f"study {name}")
    text = read_text(Path(name), absent=f"there is no study {name}; `lorapar study list` names those that ship")
    return parse_study(text, name)


def parse_study(text: str, origin: str) -> StudyConfig:
    """The study of a YAML text; `origin` is what errors call it."""
    return validate_study(parse_settings(text, origin), origin)


def validate_study(values: Any, origin: str) -> StudyConfig:
    """The study of these values; raises BadInputError that names each wrong key, in one line."""
    return validated(StudyConfig, values, origin)
