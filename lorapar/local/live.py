"""What a run is doing right now, as a small JSON document: written while its stages work, read by `lorapar watch`.

RUN/live.json                       of a run folder: the node under way, or how the run ended
runs/<run>/live/<node>.json         of a store: one a task of a pipeline, which work side by side

Nothing that a stage makes depends on it, and a document that cannot be written is left out: it ends no run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.errors import BadInputError, LoraparError
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.progress import Progress
from lorapar.redaction import redact
from lorapar.stages.graph import GRAPH
from lorapar.store import NotFoundError, ObjectStore, open_store, write_atomically

LIVE = "live.json"
_HISTORY, _ROLLOUTS = "history.jsonl", "rollouts.jsonl"
"""What training writes into its scratch folder, a line a step and a line a completion."""
_STEPS = 200
"""Steps of history that a document holds."""
_TAIL_BYTES = 200_000
_WARNINGS = 5
_LOCAL_SECONDS, _STORE_SECONDS = 1.0, 15.0
"""How often a document is rewritten at most."""
State = Literal["waiting", "running", "finished", "failed"]
Write = Callable[[str], None]


class LiveNode(BaseModel):
    """One node as it works, or as it ended."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    node: str
    state: State = "running"
    ended: bool = False
    """Whether the whole run has ended with it; of run folders only."""
    title: str = ""
    """The piece of work under way, with units done of all (None: unknown)."""
    done: int = 0
    total: int | None = None
    note: str = ""
    seconds_left: float | None = None
    """Of this piece of work, at the pace so far."""
    updated: str = ""
    error: str = ""
    warnings: list[str] = []
    history: list[dict[str, float]] = []
    """The latest steps of training."""
    rollouts: list[dict[str, Any]] = []
    """Completions of RL's newest step that were kept."""


class LiveProgress:
    """A Progress that passes everything on and keeps a document of it up to date."""

    def __init__(self, inner: Progress, node: str, scratch: Path, write: Write, every_seconds: float) -> None:
        self._inner, self._scratch, self._write, self._every = inner, scratch, write, every_seconds
        self.live = LiveNode(node=node)
        self._begun = time.monotonic()
        self._written: float | None = None

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a piece of work."""
        self._inner.start(title, total)
        self._begun = time.monotonic()
        self.live.title, self.live.total, self.live.done, self.live.note = title, total, 0, ""
        self.live.seconds_left = None
        self.write()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some units are done."""
        self._inner.advance(units, note)
        live = self.live
        live.done, live.note = live.done + units, note
        if live.total and live.done:
            live.seconds_left = (time.monotonic() - self._begun) / live.done * max(0, live.total - live.done)
        if self._written is None or time.monotonic() - self._written >= self._every:
            self.write()

    def log(self, line: str) -> None:
        """One line; warnings stay in the document."""
        self._inner.log(line)
        if line.lower().startswith("warning"):
            self.live.warnings = [*self.live.warnings, redact(line)][-_WARNINGS:]
            self.write()

    def write(self) -> None:
        """Write the document."""
        self._written = time.monotonic()
        self.live.updated = datetime.now(UTC).isoformat(timespec="seconds")
        self.live.history = _tail(self._scratch / _HISTORY)[-_STEPS:]
        self.live.rollouts = _newest(self._scratch)
        self._write(redact(self.live.model_dump_json()))


@contextmanager
def live_in_folder(root: Path, node: str, scratch: Path, inner: Progress) -> Iterator[Progress]:
    """A Progress whose document is that of a run folder."""
    with _live(LiveProgress(inner, node, scratch, _to_file(root), _LOCAL_SECONDS)) as progress:
        yield progress


@contextmanager
def live_in_store(store: ObjectStore, run: str, node: str, scratch: Path, inner: Progress) -> Iterator[Progress]:
    """A Progress whose document is in a store; written in the background, so that a slow store holds up no stage."""
    if not run:
        yield inner
        return
    sink = _ToStore(store, f"runs/{run}/live/{node}.json")
    try:
        with _live(LiveProgress(inner, node, scratch, sink.write, _STORE_SECONDS)) as progress:
            yield progress
    finally:
        sink.settle()


@contextmanager
def _live(progress: LiveProgress) -> Iterator[Progress]:
    progress.write()
    try:
        yield progress
    except BaseException as error:
        progress.live.state = "failed"
        progress.live.error = redact(" ".join(str(error).split())) or type(error).__name__
        raise
    else:
        progress.live.state = "finished"
    finally:
        progress.live.seconds_left = None
        progress.write()


def end_live(root: Path) -> None:
    """The run of a folder has ended, as its last node did."""
    found = _read(root / LIVE)
    if found is not None:
        found.ended = True
        _to_file(root)(found.model_dump_json())


def _to_file(root: Path) -> Write:
    def write(text: str) -> None:
        try:
            write_atomically(root / LIVE, text)
        except (LoraparError, OSError):
            return

    return write


class _ToStore:
    """Writes an object in the background; while one is on its way, only the newest text after it counts."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._next: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Write this as soon as nothing is on its way."""
        with self._lock:
            self._next = text
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Wait for the last text, not for ever: a store that hangs must not hold up the next stage."""
        thread = self._thread
        if thread is not None:
            thread.join(_STORE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._lock:
                text, self._next = self._next, None
                if text is None:
                    self._thread = None
                    return
            try:
                self._store.write(self._key, text.encode())
            except (LoraparError, OSError):
                continue


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last lines of a file of JSON objects; one that is being written is left out."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            whole = file.tell() <= _TAIL_BYTES
            file.seek(0 if whole else -_TAIL_BYTES, 0 if whole else 2)
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines if whole else lines[1:]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class NodeState(BaseModel):
    """A node of the run: whether it has finished, and how long it took."""

    node: str
    state: State
    seconds: float | None = None


class WatchedRun(BaseModel):
    """A run as it is now."""

    run: str
    state: State
    nodes: list[NodeState]
    now: list[LiveNode]
    """Nodes that work, and those that failed; of a finished run its last training."""


class Watcher:
    """Reads what a run tells of itself, again and again; writes nothing."""

    def __init__(self, address: str) -> None:
        """Of a run folder, or of `s3://STORE/runs/ID` (or the same in a folder). Raises BadInputError for neither."""
        self._address = address.rstrip("/")
        self._records: dict[str, StageRecord] = {}
        root, _, run = self._address.rpartition("/runs/")
        folder = Path(self._address)
        own = "://" not in address and ((folder / LIVE).is_file() or (folder / "stages").is_dir())
        self._folder = RunFolder(folder) if own else None
        if own:
            return
        if not root or not run or "/" in run:
            raise BadInputError(
                f"{address}: neither a run folder (runs/NAME of `lorapar run`) nor a run in a store (s3://STORE/runs/ID)"
            )
        self._store, self._run = open_store(root), run

    def look(self) -> WatchedRun:
        """The run as it is now. Raises BadInputError where there is none, UnreachableError for the store."""
        return self._look_at_folder(self._folder) if self._folder is not None else self._look_at_store()

    def _look_at_folder(self, folder: RunFolder) -> WatchedRun:
        live = _read(folder.root / LIVE)
        if live is None and not folder.records():
            raise BadInputError(f"{folder.root}: no stage of a run has begun here")
        state: State = "finished"
        if live is not None and not (live.ended or live.state == "failed"):
            state = "running"
        elif live is not None:
            state = live.state
        shown = [live] if live is not None and state != "finished" else _trained(folder)
        return WatchedRun(run=self._address, state=state, nodes=_nodes(folder.records(), shown), now=shown)

    def _look_at_store(self) -> WatchedRun:
        prefix = f"runs/{self._run}/"
        keys = [info.key for info in self._store.list(prefix)]
        if not keys:
            raise BadInputError(
                f"{self._address}: nothing of this run is there; is the ID right, and has its first task begun?"
            )
        found = [_parsed(self._read(key)) for key in keys if key.startswith(f"{prefix}live/")]
        live = [one for one in found if one is not None]
        for key in keys:
            if key.startswith(f"{prefix}records/") and key not in self._records:
                self._records[key] = StageRecord.model_validate_json(self._store.read(key))
        records = {record.node: record for record in self._records.values()}
        now = [one for one in live if one.state in ("running", "failed") and one.node not in records]
        ended = f"{prefix}metrics.json" in keys
        state: State = "running" if not ended else "failed" if any(one.state == "failed" for one in now) else "finished"
        trained = [one for one in live if one.history][-1:]
        return WatchedRun(run=self._address, state=state, nodes=_nodes(records, live), now=now or trained)

    def _read(self, key: str) -> bytes:
        try:
            return self._store.read(key)
        except NotFoundError:
            return b""


def _trained(folder: RunFolder) -> list[LiveNode]:
    """The last training of a run that has ended, from what it made."""
    for node in ("rl", "sft"):
        made = folder.artifact(node, "adapter")
        if history := _tail(made / _HISTORY):
            return [LiveNode(node=node, state="finished", history=history[-_STEPS:], rollouts=_newest(made))]
    return []


def _newest(folder: Path) -> list[dict[str, Any]]:
    """The completions that were kept of the newest step."""
    kept = _tail(folder / _ROLLOUTS)
    return [line for line in kept if line.get("step") == kept[-1].get("step")]


def _nodes(records: dict[str, StageRecord], live: list[LiveNode]) -> list[NodeState]:
    states = {one.node: one.state for one in live}
    found = []
    for node in GRAPH:
        record = records.get(node.name)
        working = states.get(node.name)
        if working in ("running", "failed") or record is None:
            found.append(NodeState(node=node.name, state=working or "waiting"))
        else:
            found.append(NodeState(node=node.name, state="finished", seconds=record.seconds))
    return found


def _read(path: Path) -> LiveNode | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(data: bytes) -> LiveNode | None:
    try:
        return LiveNode.model_validate_json(data)
    except ValidationError:
        return None
