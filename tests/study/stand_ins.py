"""Cells of a study without training: workers that end at once, and results that are written down."""

from __future__ import annotations

import json
from multiprocessing import Pipe
from pathlib import Path

import typer.testing

from lorapar.cli import app
from lorapar.config import load_config
from lorapar.study.cells import Cell, cells_of
from lorapar.study.folder import StudyFolder
from lorapar.study.kept import write_result
from lorapar.study.results import Cost, Result, Step

STUDY = "name: few\ntitle: t\nseeds: [0]\ngrid: {partition.theta: [0.9, 0.5]}\n"


def result_with(cell: Cell, right: int = 20, rows: int = 40) -> Result:
    """Of a cell that answered so many rows right after RL."""
    answered = {f"row {n}": n < right for n in range(rows)}
    regions = {"jaccard": 0.5}
    step = Step("rl", cell.id, 1.0, adapter=cell.id)
    cost = Cost(1.0, 3, 2, 100, 50, 60, 1200)
    return Result(cell, {("after_rl", "system2"): answered}, regions, {}, (4, 8, "QKVGUD"), {}, cost, {"rl": step})


class Ended:
    """A worker that has done its work before anyone looks."""

    def __init__(self, exitcode: int | None = 0) -> None:
        self.exitcode = exitcode
        self.sentinel, ended = Pipe(duplex=False)
        ended.close()

    def is_alive(self) -> bool:
        return False

    def join(self) -> None:
        self.sentinel.close()

    def terminate(self) -> None:
        pass


class Workers:
    """Starts cells: each leaves a result at once, or ends with the exit code that `codes` has for its folder."""

    def __init__(self, monkeypatch) -> None:
        self.started: list[str] = []
        self.codes: dict[str, int | None] = {}
        monkeypatch.setattr("lorapar.study.runner.start", self._start)

    def _start(self, work) -> Ended:
        own = work.settings.parent
        self.started.append(own.name)
        if own.name in self.codes:
            return Ended(self.codes[own.name])
        folder = StudyFolder(own.parent.parent)
        study, base, store = folder.read_settings()
        (cell,) = [one for one in cells_of(study, base, store) if one.id == own.name]
        write_result(result_with(cell), folder, work.until)
        return Ended()


def ran(folder: Path, text: str, *more: str) -> str:
    """What `lorapar study run` of this text prints, in this process; a fault is raised."""
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(text)
    return called("run", file, "--preset", "tiny", "--out", folder, *more)


def called(*arguments: object) -> str:
    runner = typer.testing.CliRunner()
    return runner.invoke(app, ["study", *map(str, arguments)], catch_exceptions=False).stdout


def cells_in(folder: Path) -> dict[str, Cell]:
    study, base, store = StudyFolder(folder).read_settings()
    return {cell.id: cell for cell in cells_of(study, base, store)}


def edited(path: Path, **values: object) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tiny(*overrides: str):
    return load_config(preset="tiny", overrides=overrides)
