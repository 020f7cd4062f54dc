"""How far each cell of a study has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapar import __version__
from lorapar.config.study import StudyConfig
from lorapar.report.formats import duration
from lorapar.stages.graph import GRAPH
from lorapar.study.cells import Cell
from lorapar.study.folder import StudyFolder

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Standing:
    """The progress of a cell."""

    cell: Cell
    state: str
    reached: str
    """Its last finished stage; empty: none."""
    nodes: int
    """Its finished stages."""
    last: int
    """The number of all its stages."""
    seconds: float | None
    line: str
    """The error of a failed cell."""


def standings(study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder) -> list[Standing]:
    """The state of each cell, how far it came, and how long its last start took."""
    nodes = [node.name for node in GRAPH]
    running, last = folder.is_running, nodes.index(study.until) + 1
    found = []
    for cell in cells:
        state, reached = folder.state(cell), folder.reached(cell)
        status: str = state.status if state else "waiting"
        if status == "running" and not running:
            status = "stopped"
        if state is not None and status == "finished" and not folder.is_finished(cell, __version__, study.until):
            status = "settings changed" if state.version == __version__ else "of another version"
        if status == "finished" and not reached:  # its run folder is missing, its result is kept
            reached = study.until
        far = nodes.index(reached) + 1 if reached else 0
        seconds, line = (state.seconds or None, state.line) if state else (None, "")
        found.append(Standing(cell, status, reached or "", far, last, seconds, line))
    return found


def status_table(rows: Sequence[Standing]) -> Table:
    """The same as a table for people."""
    from rich.table import Table

    table = Table("cell", "seed", "state", "reached", "time", "", box=None, header_style="bold")
    for one in rows:
        far = f"{one.reached} ({one.nodes}/{one.last})" if one.reached else ""
        table.add_row(one.cell.name, str(one.cell.seed), one.state, far, duration(one.seconds), one.line)
    return table
