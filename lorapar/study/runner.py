"""Run the cells of a study, several at a time: keep finished ones, report failed ones, and go on with the others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Protocol

from lorapar import __version__
from lorapar.config import dump_changed
from lorapar.config.study import StudyConfig
from lorapar.errors import ExitCode, LoraparError, StoppedError, stopped
from lorapar.progress import Progress
from lorapar.store import write_atomically
from lorapar.study.cells import Cell
from lorapar.study.folder import CellState, StudyFolder
from lorapar.study.kept import keep_result
from lorapar.study.worker import Work, start

if TYPE_CHECKING:
    from lorapar.study.remote import Cluster

Log = Callable[[str], None]
Reporter = Callable[[str], AbstractContextManager[Progress]]


class CellsFailedError(LoraparError):
    """Cells of a study failed; the exit code is that of the first."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Worker(Protocol):
    """The worker of a cell: a process on this machine, or a run in Kubeflow that is followed."""

    @property
    def exitcode(self) -> int | None:
        """How it ended."""

    @property
    def sentinel(self) -> Any:
        """What `multiprocessing.connection.wait` can wait for."""

    def is_alive(self) -> bool:
        """Whether it goes on."""

    def join(self) -> None:
        """Wait for its end."""

    def terminate(self) -> None:
        """Stop it; its results so far are kept."""


@dataclass
class _Running:
    cell: Cell
    process: Worker
    began: float


class StudyRun:
    """The cells of one study, on this machine or as runs in Kubeflow."""

    def __init__(
        self,
        study: StudyConfig,
        cells: Sequence[Cell],
        folder: StudyFolder,
        reporter: Reporter,
        log: Log,
        parallel: int,
        cluster: Cluster | None = None,
    ) -> None:
        """`reporter` must be a function of a module, because it is called in other processes.

        Raises BadInputError where a cell cannot run in the cluster.
        """
        self._study, self._cells, self._folder = study, list(cells), folder
        self._reporter, self._log, self._parallel, self._cluster = reporter, log, parallel, cluster
        if cluster is not None:
            for cell in self._cells:
                cluster.parameters(study, cell)
        self._running: list[_Running] = []

    def run(self) -> None:
        """Run unfinished cells. The caller locks the folder.

        Raises StoppedError when stopped, CellsFailedError where cells failed; finished cells are kept.
        """
        waiting = [cell for cell in self._cells if not self._is_kept(cell)]
        if kept := len(self._cells) - len(waiting):
            self._log(f"{kept} of {len(self._cells)} cells have finished before and are kept")
        failed: list[tuple[Cell, CellState]] = []
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._parallel:
                    self._start(waiting.pop(0))
                connection.wait([one.process.sentinel for one in self._running])
                failed += self._collect()
        except KeyboardInterrupt as stop:
            raise self._stopped(stop) from None
        except BaseException:
            self._end_all()
            raise
        if failed:
            raise _failure(failed, len(self._cells))

    def _is_kept(self, cell: Cell) -> bool:
        return self._folder.is_finished(cell, __version__, self._study.until)

    def _start(self, cell: Cell) -> None:
        folder = self._folder.cell(cell)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder.set_aside(cell)
        write_atomically(folder / "settings.yaml", dump_changed(cell.config))
        self._folder.write_state(cell, CellState(status="running", digest=cell.digest, version=__version__))
        self._log(f"{self._place(cell)} {cell.label}: begins, log in {self._folder.log(cell)}")
        worker = self._here(cell) if self._cluster is None else self._remote(cell, self._cluster)
        self._running.append(_Running(cell, worker, time.monotonic()))

    def _here(self, cell: Cell) -> Worker:
        threads = max(1, (os.cpu_count() or 1) // self._parallel) if self._parallel > 1 else None
        work = Work(
            settings=self._folder.cell(cell) / "settings.yaml",
            out=self._folder.run(cell).root,
            log=self._folder.log(cell),
            until=self._study.until,
            reporter=self._reporter,
            threads=threads,
        )
        return start(work)

    def _remote(self, cell: Cell, cluster: Cluster) -> Worker:
        from lorapar.study.remote import RemoteCell

        remote = RemoteCell(cluster, self._study, cell, self._folder.run(cell).root, self._folder.log(cell))
        remote.start()
        return remote

    def _collect(self) -> list[tuple[Cell, CellState]]:
        """Remove cells that have ended from the running ones; returns the failed ones."""
        failed = []
        for one in [one for one in self._running if not one.process.is_alive()]:
            one.process.join()
            self._running.remove(one)
            state = self._ended(one)
            if state.status == "finished":
                self._log(f"{self._place(one.cell)} {one.cell.label}: finished in {state.seconds:.0f} s")
            else:
                failed.append((one.cell, state))
                self._log(f"{self._place(one.cell)} {one.cell.label}: failed ({state.line}); the others go on")
        return failed

    def _ended(self, one: _Running, *, stopped: bool = False) -> CellState:
        """Write how a cell ended."""
        ended = one.process.exitcode
        code = int(ExitCode.BUG) if ended is None else ended  # None: it died before it could say how
        status = "finished" if code == 0 else "stopped" if stopped else "failed"
        state = CellState(
            status="finished" if code == 0 else "stopped" if stopped else "failed",
            digest=one.cell.digest,
            version=__version__,
            exit_code=code if code >= 0 else None,
            line=self._last_line(one.cell, code) if status == "failed" else "",
            seconds=round(time.monotonic() - one.began, 1),
            until=self._study.until,
        )
        if status == "finished" and self._folder.keeps_results:
            self._keep_result(one.cell)
        self._folder.write_state(one.cell, state)
        return state

    def _keep_result(self, cell: Cell) -> None:
        """Write its result, if possible; otherwise its run folder serves."""
        try:
            keep_result(cell, self._folder, self._study.until)
        except (LoraparError, OSError) as error:
            self._log(f"{cell.label}: its result is not kept apart from its run folder ({error})")

    def _last_line(self, cell: Cell, code: int) -> str:
        if code < 0:
            return f"ended by the system, {signal.Signals(-code).name}; it may have had too little memory"
        log = self._folder.log(cell)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        errors = [line.removeprefix("lorapar: ") for line in lines if line.startswith("lorapar: ")]
        if code == ExitCode.BUG or not errors:
            return f"{lines[-1].strip() if lines else 'without a word'}, see {log}"
        return errors[-1]

    def _stopped(self, stop: KeyboardInterrupt) -> StoppedError:
        running = ", ".join(one.cell.label for one in self._running)
        self._end_all()
        during = f" during {running}" if running else ""
        if self._cluster is not None:
            goes_on = "the cells' runs go on in Kubeflow, and the same command follows them"
            return stopped(stop, during, goes_on)
        return stopped(stop, during)

    def _end_all(self) -> None:
        """Send SIGTERM to every cell, which saves its step; a second signal to the study ends them at once."""
        while any(one.process.is_alive() for one in self._running):
            try:
                for one in self._running:
                    if one.process.is_alive():
                        one.process.terminate()
                for one in self._running:
                    one.process.join()
            except KeyboardInterrupt:
                continue
        for one in self._running:
            self._ended(one, stopped=True)
        self._running.clear()

    def _place(self, cell: Cell) -> str:
        return f"[{self._cells.index(cell) + 1}/{len(self._cells)}]"


def _failure(failed: Sequence[tuple[Cell, CellState]], cells: int) -> CellsFailedError:
    code = failed[0][1].exit_code
    named = "; ".join(f"{cell.label}: {state.line}" for cell, state in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return CellsFailedError(
        f"{len(failed)} of {cells} cells failed ({named}{more}); "
        "the same command tries them again and keeps the others",
        ExitCode(code) if code in list(ExitCode) else ExitCode.TRAINING_FAILED,
    )
