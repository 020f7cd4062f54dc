"""The files in the folder of a study.

study.yaml                the study and its base settings, as they were run last
cells/<cell>/settings.yaml    settings of an ordinary run
cells/<cell>/run/         its run folder, with a report of its own
cells/<cell>/log.txt      what that run said
cells/<cell>/state.json   how it ended
cells/<cell>/result.json  what tables are made of; with it, its run folder is no longer needed
cells/<cell>/result.before.json   that of another version of lorapar, until the cell has finished again
store/                    stages that cells share, where no other store is named
report.html report.md *.csv   what people come for
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar import __version__
from lorapar.config import RunConfig, dump_changed, parse_settings, validate_settings
from lorapar.config.load import read_text
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


class KeptOf(BaseModel):
    """What a result says of itself, so that it counts where the state of its cell is lost."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    digest: str
    """Digest of the cell's settings."""
    version: str = ""
    until: str = ""
    """The last node of its run."""


def _kept_of(path: Path) -> KeptOf | None:
    try:
        return KeptOf.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


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
        """The state of a cell; where its file is missing or broken, that of its result; None before its first start."""
        path = self.cell(cell) / "state.json"
        try:
            return CellState.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return self._state_of_result(cell)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror}); delete it") from None

    def _state_of_result(self, cell: Cell) -> CellState | None:
        """What a result says of itself; one that says no version or last node, as earlier ones, is taken to fit."""
        kept = _kept_of(self.result(cell))
        if kept is None:
            return None
        version, until = kept.version or __version__, kept.until or GRAPH[-1].name
        return CellState(status="finished", digest=kept.digest, version=version, until=until)

    def computed(self, cell: Cell) -> set[str]:
        """Digests of the settings that it has results of."""
        state = self.state(cell)
        found = {state.digest} if state is not None and state.status == "finished" else set()
        before = _kept_of(self._before(cell))
        return found if before is None else {*found, before.digest}

    def take_over(self, cell: Cell, digests: Collection[str]) -> None:
        """Let what was computed under these digests count as of the cell's own settings."""
        for path in (self.cell(cell) / "state.json", self.result(cell), self._before(cell)):
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8")
            for digest in digests:
                text = text.replace(digest, cell.digest)
            write_atomically(path, text)

    def _before(self, cell: Cell) -> Path:
        return self.cell(cell) / "result.before.json"

    def set_aside(self, cell: Cell) -> None:
        """Keep the result of an earlier start, of another version of lorapar, until there is a new one."""
        with suppress(FileNotFoundError):
            self.result(cell).replace(self._before(cell))

    def write_result(self, cell: Cell, text: str) -> None:
        """Write the result of a cell, in the place of an earlier one."""
        write_atomically(self.result(cell), text)
        self._before(cell).unlink(missing_ok=True)

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
        if self.keeps_results and (self.root / SEARCH).is_file():
            raise BadInputError(f"--out {self.root}: is the folder of a search (`lorapar tune`); give another --out")
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
        absent = f"{self.root}: not the folder of a study (no {_SETTINGS}); start one with `lorapar study run NAME`"
        values = parse_settings(read_text(path, absent=absent), str(path))
        study = validate_study(values.get("study"), str(path))
        return study, validate_settings(values.get("base") or {}, str(path)), str(values.get("store"))
