"""Cells of a study as runs in Kubeflow: start them, follow them, and read their results from their store.

cells/<cell>/kubeflow.json    the run that computes it, so that a study which was stopped follows the same one again
cells/<cell>/run/             of what the run left in its store, only what tables and pictures are made of
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorapar.config import SYSTEMS
from lorapar.config.study import StudyConfig
from lorapar.errors import BadInputError, ExitCode, LoraparError
from lorapar.kubeflow.checks import check_nodes
from lorapar.kubeflow.follow import GOING
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.parameters import pipeline_parameters
from lorapar.kubeflow.reporting import find_run
from lorapar.kubeflow.submission import STARTED_AGAIN, Ending, RunStore, by_address, wait_for
from lorapar.kubeflow.tasks import Takes
from lorapar.local.folder import RunFolder
from lorapar.redaction import print_traceback, redact
from lorapar.store import Transfer, write_atomically
from lorapar.store.tree import content_key, fetch_missing
from lorapar.study.cells import Cell

if TYPE_CHECKING:
    from lorapar.kubeflow.package import PlannedTask
    from lorapar.kubeflow.server import Server, Start

# A run whose adapter is not better, or not known to be better, has been computed too.
_COMPUTED = (ExitCode.OK, ExitCode.NOT_BETTER, ExitCode.UNKNOWN)
Files = Mapping[tuple[str, str], tuple[str, ...] | None]
"""Names of files by node and output; None: all of them."""
READ: Files = {
    ("tally", "heldout"): None,
    ("execute", "evaluation"): None,
    ("partition", "partition"): ("summary.json",),
    ("sft", "adapter"): ("summary.json", "history.jsonl"),
    ("rl", "adapter"): ("summary.json", "history.jsonl"),
}
"""Files that a study reads. Weights and masks are not copied."""
SCORES: Files = {(f"score-{system}", "scores"): ("scores.safetensors",) for system in SYSTEMS}
"""Further files that a search reads."""
_RESULTS = ("report.html", "summary.md", "metrics.json")


@dataclass(frozen=True)
class Cluster:
    """The cluster where cells run, and the inputs of every run."""

    server: Callable[[], Server]
    """Makes a client; each cell has its own."""
    version: tuple[str, str]
    """Ids of the pipeline and of its uploaded version."""
    tasks: Sequence[PlannedTask]
    start: Start
    """The start of every run; name and parameters come from the cell."""
    mounts: Sequence[str] = ()
    """Folders that the run's pods have."""
    files: Files = field(default_factory=lambda: READ)
    """Which files of each run are copied to this machine."""
    asked: Mapping[str, Takes] = field(default_factory=dict)
    """The cluster resources of each task, as the package passes them to `plan`."""

    def parameters(self, study: StudyConfig, cell: Cell) -> dict[str, Any]:
        """The pipeline's parameters for one cell, checked; raises BadInputError that names what is wrong.

        Each cell publishes into its own registry below the store, so none touches what is served.
        """
        if study.until != "execute":
            raise BadInputError(
                f"study {study.name}: until: {study.until}: a run in Kubeflow goes on to its end; leave --host out"
            )
        store = str(cell.config.store.address)
        check_nodes(cell.config, self.asked, store)
        registry = f"{store.rstrip('/')}/studies/{study.name}/{cell.id}/registry"
        return pipeline_parameters(cell.config, [f"registry={registry}", "promote=false"], store, self.mounts)


class RemoteCell:
    """One cell that is computed in Kubeflow; has the interface of a process in the list of running cells."""

    def __init__(self, cluster: Cluster, study: StudyConfig, cell: Cell, folder: Path, log: Path) -> None:
        self._cluster, self._cell, self._folder, self._log = cluster, cell, folder, log
        self._parameters = cluster.parameters(study, cell)
        self._store = str(cell.config.store.address)
        self._stop = threading.Event()
        self.exitcode: int | None = None
        self.sentinel: Connection
        self.sentinel, self._ended = Pipe(duplex=False)
        # A thread that waits for Kubeflow must not keep a stopped study alive.
        self._thread = threading.Thread(target=self._work, name=cell.id, daemon=True)

    def start(self) -> None:
        """Start the cell; returns at once."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()
        self.sentinel.close()

    def terminate(self) -> None:
        """Stop following the run, which goes on in Kubeflow."""
        self._stop.set()

    def _work(self) -> None:
        try:
            with self._log.open("a", encoding="utf-8") as log:
                self.exitcode = self._exit_code(Console(file=log, force_terminal=False, width=160))
        finally:
            self._ended.close()

    def _exit_code(self, console: Console) -> int:
        try:
            ending = self._run(console)
            if ending.exit_code not in _COMPUTED:
                return _printed(console, ending.line, ending.exit_code)
            console.print(ending.line, markup=False, highlight=False, soft_wrap=True)
            return ExitCode.OK
        except _StoppedFollowingError:
            return ExitCode.TERMINATED
        except LoraparError as error:
            return _printed(console, str(error), error.exit_code)
        except Exception as bug:
            with suppress(OSError):
                print_traceback(type(bug), bug, bug.__traceback__)
            return _printed(console, f"{type(bug).__name__}: {bug}", ExitCode.BUG)

    def _run(self, console: Console) -> Ending:
        """Follow the remembered run, or else a new one, to its end, and copy its results."""
        server = _Stoppable(self._cluster.server(), self._stop)
        run, begun = self._remembered(server), 0
        while True:
            if run is None:
                run = self._started(server)
                begun += 1
            console.print(f"run {run}", markup=False, highlight=False)
            ending = wait_for(server, run, self._store, self._cluster.tasks, console)
            if ending.exit_code in _COMPUTED:
                copied = RunStore(self._store, run)
                if not copied.ask(lambda ledger: copy_results(ledger, self._folder, self._cluster.files)):
                    return Ending(ExitCode.UNREACHABLE, f"run {run} has ended, but {copied.problem or _UNREADABLE}")
                return ending
            if not ending.stopped or begun > STARTED_AGAIN:
                return ending
            run = None

    def _remembered(self, server: Any) -> str | None:
        """The run that was started for exactly these settings, if it is running or has succeeded."""
        try:
            kept = json.loads((self._folder.parent / "kubeflow.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if kept.get("digest") != self._cell.digest or kept.get("version") != list(self._cluster.version):
            return None
        try:
            state = str(server.run(kept["run"]).state or "")
        except LoraparError:
            return None
        return str(kept["run"]) if state in (*GOING, "SUCCEEDED") else None

    def _started(self, server: Any) -> str:
        values, _ = by_address(self._parameters, self._store)
        start = replace(self._cluster.start, name=f"{self._cluster.start.name} {self._cell.id}", parameters=values)
        run = str(server.start(*self._cluster.version, start))
        kept = {"run": run, "digest": self._cell.digest, "version": list(self._cluster.version)}
        write_atomically(self._folder.parent / "kubeflow.json", json.dumps(kept, indent=2) + "\n")
        return run


_UNREADABLE = "its store does not hold what its tasks have made"


class _StoppedFollowingError(Exception):
    """The study was stopped."""


class _Stoppable:
    """A server that gets no more requests once the study is stopped."""

    def __init__(self, server: Server, stop: threading.Event) -> None:
        self._server, self._stop = server, stop

    def __getattr__(self, name: str) -> Any:
        if self._stop.is_set():
            raise _StoppedFollowingError
        return getattr(self._server, name)


def copy_results(ledger: Ledger, folder: Path, files: Files) -> bool:
    """Make a run folder from the results of a run in Kubeflow that a study reads; False where a record is missing.

    A node that ran as several tasks, such as a round of votes, has a record for each.
    """
    records = find_run(ledger).records
    if not {"tally", "partition", "execute"} <= set(records):
        return False
    run = RunFolder(folder)
    for node, found in records.items():
        for place, record in enumerate(found):
            own = run.node(node if place == 0 else f"{node}-{place + 1}")
            own.mkdir(parents=True, exist_ok=True)
            for output, digest in record.outputs.items():
                if place == 0 and (node, output) in files:
                    _copy(ledger, digest, own / output, files[node, output])
            write_atomically(own / "stage.json", record.model_dump_json(indent=2) + "\n")
    for name in _RESULTS:
        data = ledger.read_result(name)
        if data is not None:
            write_atomically(folder / name, data.decode("utf-8", errors="replace"))
    return True


def _copy(ledger: Ledger, digest: str, folder: Path, names: tuple[str, ...] | None) -> None:
    entries = ledger.read_manifest(digest).files
    folder.mkdir(exist_ok=True)
    wanted = [name for name in entries if names is None or name in names]
    transfers = [
        Transfer(folder / name, content_key(entries[name].sha256), entries[name].size_bytes, entries[name].sha256)
        for name in wanted
    ]
    fetch_missing(ledger.store, transfers, folder.name, None)


def _printed(console: Console, line: str, code: ExitCode) -> int:
    console.print(f"lorapar: {redact(line)}", markup=False, highlight=False, soft_wrap=True)
    return code
