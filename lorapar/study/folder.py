"""The files in the folder of a study.

study.yaml                the study and its base settings, as they were run last
cells/<cell>/settings.yaml    settings of an ordinary run
cells/<cell>/run/         its run folder, with a report of its own
cells/<cell>/log.txt      what that run said
cells/<cell>/state.json   how it ended
cells/<cell>/result.json  what tables are made of; with it, its run folder is no longer needed
store/                    stages that cells share, where no other store is named
report.html report.md *.csv   what people come for
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.config import RunConfig, dump_changed, parse_settings, validate_settings
from lorapar.config.study import StudyConfig, validate_study
from lorapar.errors import BadInputError, StorageError
from lorapar.local.folder import LOCK, RunFolder, working_alone
from lorapar.stages.graph import GRAPH
from lorapar.store import refuse_other_content, write_atomically
from lorapar.store.file_system import locked
from lorapar.study.cells import Cell

_SETTINGS = "study.yaml"
SEARCH = "search.yaml"
"""In the folder of a search instead."""


class CellState(BaseModel):
    """The state of a cell."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    status: Literal["running", "finished", "failed", "stopped"]
    digest: str = ""
    """Digest of the settings it ran with."""
    version: str = ""
    """Version of lorapar that ran it."""
    exit_code: int | None = None
    line: str = ""
    """The error of a failed cell."""
    seconds: float = 0.0
    """Wall time of its last start."""
    until: str = ""
    """The last node to run."""


class StudyFolder:
    """Paths and states of one study."""

    def __init__(self, root: Path, *, keeps_results: bool = True) -> None:
        """With `keeps_results` a cell's result is enough; a search reads the run folders themselves."""
        self.root, self.keeps_results = root, keeps_results

    def cell(self, cell: Cell) -> Path:
        """The folder of one cell."""
        return self.root / "cells" / cell.id

    def run(self, cell: Cell) -> RunFolder:
        """The run folder of one cell."""
        return RunFolder(self.cell(cell) / "run")

    def result(self, cell: Cell) -> Path:
        """The file with the values for tables, once the cell has finished."""
        return self.cell(cell) / "result.json"

    def has_run(self, cell: Cell) -> bool:
        """Whether its run folder exists."""
        return bool(self.run(cell).records())

    def log(self, cell: Cell) -> Path:
        """The log of its run."""
        return self.cell(cell) / "log.txt"

    def state(self, cell: Cell) -> CellState | None:
        """The state of a cell; None before its first start."""
        try:
            return CellState.model_validate_json((self.cell(cell) / "state.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write_state(self, cell: Cell, state: CellState) -> None:
        """Write the state of a cell."""
        write_atomically(self.cell(cell) / "state.json", state.model_dump_json(indent=2) + "\n")

    def is_finished(self, cell: Cell, version: str, last: str) -> bool:
        """Whether it has finished up to the node `last`, with these settings and this version of lorapar."""
        state = self.state(cell)
        if state is None or (state.status, state.digest, state.version) != ("finished", cell.digest, version):
            return False
        nodes = [node.name for node in GRAPH]
        far = state.until in nodes and nodes.index(state.until) >= nodes.index(last)
        return (far and self.keeps_results and self.result(cell).is_file()) or self.run(cell).record(last) is not None

    def reached(self, cell: Cell) -> str:
        """The last node of its run that has finished; empty before the first."""
        records = self.run(cell).records()
        return next((node.name for node in reversed(GRAPH) if node.name in records), "")

    @property
    def is_running(self) -> bool:
        """Whether a study works in it now."""
        if not (self.root / LOCK).is_file():
            return False
        try:
            with locked(self.root / LOCK, wait=False):
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make and lock the folder; raises BadInputError where it belongs to something else or is in use."""
        complaint = f"--out {self.root}: is not empty and is no folder of a study; give another --out or an empty one"
        refuse_other_content(
            self.root, complaint, lambda _: any((self.root / name).is_file() for name in (_SETTINGS, SEARCH))
        )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"--out {self.root}: cannot be made ({error.strerror}); choose another folder") from None
        with working_alone(self.root, "study"):
            yield

    def write_settings(self, study: StudyConfig, base: RunConfig, store: str) -> None:
        """Write the settings for `status` and `report`."""
        values: dict[str, Any] = {
            "study": study.model_dump(mode="json", exclude_defaults=True),
            "base": yaml.safe_load(dump_changed(base)) or {},
            "store": store,
        }
        write_atomically(self.root / _SETTINGS, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))

    def read_settings(self) -> tuple[StudyConfig, RunConfig, str]:
        """The study, its base settings and its store; raises BadInputError where this is no study's folder."""
        path = self.root / _SETTINGS
        try:
            values = parse_settings(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            raise BadInputError(
                f"{self.root}: not the folder of a study (no {_SETTINGS}); start one with `lorapar study run NAME`"
            ) from None
        study = validate_study(values.get("study"), str(path))
        return study, validate_settings(values.get("base") or {}, str(path)), str(values.get("store"))
