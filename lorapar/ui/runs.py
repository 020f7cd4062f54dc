"""The runs of a folder or a store, in rows for people. Documents are read again only where they changed."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lorapar.errors import BadInputError, LoraparError, StorageError
from lorapar.local.live import LIVE, Watcher
from lorapar.redaction import redact
from lorapar.report.formats import is_number, systems_in
from lorapar.store import NotFoundError, ObjectInfo, ObjectStore, is_s3, open_store

SILENT_SECONDS = 3600.0
"""A run that goes on tells of itself every minute or so; after an hour without news somebody should look."""
STATES = ("running", "silent", "finished", "failed", "cancelled")
_METRICS, _OUTCOME, _PLAN, _REPORT = "metrics.json", "outcome.json", "plan.json", "report.html"
_PLAN_OF_FOLDER = Path("stages", "plan", "plan", _PLAN)
_READERS = 16
_MOST_BYTES = 64_000_000
_ID = re.compile(r"[A-Za-z0-9._@+=~-][A-Za-z0-9 ._@+=~-]{0,199}")

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """One system's held-out figure before and after training: accuracy, or loss where no row has a reference."""

    before: float | None
    after: float | None
    is_loss: bool = False


@dataclass(frozen=True)
class RunRow:
    """One run in the list."""

    id: str
    """Its folder's name, or its ID in the store."""
    name: str
    state: str
    base: str
    data: str
    scores: Mapping[str, Score]
    verdict: str
    better: bool | None
    promoted: bool
    seconds: float | None
    """Of all stages, those that were reused as they once took."""
    updated: float
    """Last news, in seconds since the epoch."""
    note: str = ""
    """The stage under way, or what failed."""
    seed: int | None = None

    @property
    def goes_on(self) -> bool:
        """Whether there may be news."""
        return self.state in ("running", "silent")

    @property
    def when(self) -> str:
        """The last news as a date."""
        return datetime.fromtimestamp(self.updated, UTC).strftime("%Y-%m-%d %H:%M") if self.updated else ""

    @property
    def words(self) -> str:
        """What a search looks at."""
        return redact(" ".join((self.id, self.name, self.base, self.data, self.verdict, self.note))).casefold()


class Runs(Protocol):
    """Where runs lie. Names are looked up among those that are there, and never become a path unseen."""

    @property
    def address(self) -> str:
        """As a person would write it."""

    def rows(self) -> list[RunRow]:
        """All runs, the newest first."""

    def row(self, run: str) -> RunRow | None:
        """One of them; None where there is none."""

    def metrics(self, run: str) -> Document:
        """metrics.json; empty where the run has none yet."""

    def settings(self, run: str) -> Document:
        """Every setting of the run; empty where it has not been planned."""

    def histories(self, run: str) -> dict[str, list[dict[str, float]]]:
        """Steps of `sft` and `rl`, as far as they are kept here."""

    def report(self, run: str) -> bytes | None:
        """report.html; None where there is none."""

    def watcher(self, run: str) -> Watcher:
        """What reads the run as it is now."""


@dataclass
class _Documents:
    """JSON documents by place, read again only where their version changed."""

    read: Callable[[str], bytes]
    known: dict[str, tuple[str, Document]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, place: str, version: str, keep: Callable[[Document], Document] = lambda found: found) -> Document:
        """What is at a place; empty where that is no JSON object. `keep` picks what is remembered of it."""
        with self.lock:
            held = self.known.get(place)
        if held is not None and held[0] == version:
            return held[1]
        try:
            found = json.loads(self.read(place))
        except (NotFoundError, FileNotFoundError, ValueError):
            found = {}
        kept = keep(found) if isinstance(found, dict) else {}
        with self.lock:
            self.known[place] = (version, kept)
        return kept


def open_runs(address: str) -> Runs:
    """The runs of a folder of run folders, of a store in a folder, or of s3://BUCKET/PREFIX.

    Raises BadInputError where the folder is not there, UnreachableError where the store does not answer.
    """
    if is_s3(address) or "://" in address:
        store = open_store(address)
        next(iter(store.list("runs/")), None)
        return StoreRuns(store)
    root = Path(address)
    if not root.is_dir():
        raise BadInputError(f"{address}: there is no such folder; name a folder of run folders, or s3://BUCKET/PREFIX")
    in_store = (root / "runs").is_dir() and not (root / "runs" / "stages").is_dir()
    return StoreRuns(open_store(address)) if in_store else FolderRuns(root)


class FolderRuns:
    """Run folders side by side, as `lorapar run` leaves them in `runs/`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._documents = _Documents(lambda place: _small(Path(place)))

    @property
    def address(self) -> str:
        """The folder."""
        return str(self._root)

    def rows(self) -> list[RunRow]:
        """All runs, the newest first."""
        try:
            names = [path.name for path in self._root.iterdir() if _ID.fullmatch(path.name)]
        except OSError as error:
            raise StorageError(f"{self._root}: cannot be read ({error.strerror})") from None
        found = [self.row(name) for name in names]
        return sorted((row for row in found if row is not None), key=lambda row: (-row.updated, row.id))

    def row(self, run: str) -> RunRow | None:
        """One of them; None where there is none."""
        folder = self._folder(run)
        if folder is None:
            return None
        live, metrics = self._document(folder / LIVE), self._document(folder / _METRICS)
        updated = max(_modified(folder / LIVE), _modified(folder / _METRICS), _modified(folder / "config.yaml"))
        state, note = _state_of_folder(live, metrics)
        if state == "running" and time.time() - updated > SILENT_SECONDS:
            state = "silent"
        return _row(run, state, note, updated, metrics, self.settings(run))

    def metrics(self, run: str) -> Document:
        """metrics.json."""
        folder = self._folder(run)
        return self._document(folder / _METRICS) if folder is not None else {}

    def settings(self, run: str) -> Document:
        """Those of the last plan."""
        folder = self._folder(run)
        return self._document(folder / _PLAN_OF_FOLDER, _config_of) if folder is not None else {}

    def histories(self, run: str) -> dict[str, list[dict[str, float]]]:
        """Of finished training, whole."""
        folder = self._folder(run)
        if folder is None:
            return {}
        files = {name: folder / "stages" / name / "adapter" / "history.jsonl" for name in ("sft", "rl")}
        return {name: steps for name, path in files.items() if (steps := _steps(path))}

    def report(self, run: str) -> bytes | None:
        """report.html, which must be in the run's own folder."""
        folder = self._folder(run)
        if folder is None:
            return None
        path = folder / _REPORT
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            return None
        return _small(path)

    def watcher(self, run: str) -> Watcher:
        """What reads the run as it is now."""
        return Watcher(str(self._folder(run) or self._root / run))

    def _folder(self, run: str) -> Path | None:
        """The folder that a plain name means, where it holds a run; of a study's cell it is the one below."""
        if not _ID.fullmatch(run) or run in (".", ".."):
            return None
        for folder in (self._root / run, self._root / run / "run"):
            if (folder / LIVE).is_file() or (folder / "stages").is_dir():
                return folder
        return None

    def _document(self, path: Path, keep: Callable[[Document], Document] = lambda found: found) -> Document:
        try:
            about = path.stat()
        except OSError:
            return {}
        return self._documents.get(str(path), f"{about.st_mtime_ns} {about.st_size}", keep)


class StoreRuns:
    """The runs that pipelines left below `runs/` of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._documents = _Documents(store.read)
        self._watchers: dict[str, Watcher] = {}

    @property
    def address(self) -> str:
        """Of the store."""
        return self._store.address

    def rows(self) -> list[RunRow]:
        """All runs, the newest first: one listing, and what changed since the last one, several at a time."""
        runs: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
        for info in self._store.list("runs/"):
            run, _, name = info.key.removeprefix("runs/").partition("/")
            runs[run][name] = info
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(self._row_of, runs, runs.values()))
        return sorted((row for row in found if row is not None), key=lambda row: (-row.updated, row.id))

    def row(self, run: str) -> RunRow | None:
        """One of them; None where there is none."""
        objects = self._objects(run)
        return self._row_of(run, objects) if objects else None

    def metrics(self, run: str) -> Document:
        """metrics.json."""
        return self._document(self._objects(run), _METRICS)

    def settings(self, run: str) -> Document:
        """Those of the plan."""
        return self._document(self._objects(run), _PLAN, _config_of)

    def histories(self, run: str) -> dict[str, list[dict[str, float]]]:
        """The latest steps of training, as it told of itself; none where it was taken from the cache."""
        objects = self._objects(run)
        found = {name: self._document(objects, f"live/{name}.json").get("history") for name in ("sft", "rl")}
        return {name: steps for name, steps in found.items() if steps}

    def report(self, run: str) -> bytes | None:
        """report.html."""
        info = self._objects(run).get(_REPORT)
        return self._store.read(info.key) if info is not None and info.size_bytes <= _MOST_BYTES else None

    def watcher(self, run: str) -> Watcher:
        """What reads the run as it is now; it remembers the records it has read."""
        if len(self._watchers) > 100:
            self._watchers.clear()
        if run not in self._watchers:
            self._watchers[run] = Watcher(f"{self._store.address}/runs/{run}")
        return self._watchers[run]

    def _objects(self, run: str) -> dict[str, ObjectInfo]:
        if not _ID.fullmatch(run) or run in (".", ".."):
            return {}
        prefix = f"runs/{run}/"
        return {info.key.removeprefix(prefix): info for info in self._store.list(prefix)}

    def _document(
        self, objects: Mapping[str, ObjectInfo], name: str, keep: Callable[[Document], Document] = lambda found: found
    ) -> Document:
        info = objects.get(name)
        if info is None or info.size_bytes > _MOST_BYTES:
            return {}
        return self._documents.get(info.key, info.version or str(info.modified), keep)

    def _row_of(self, run: str, objects: Mapping[str, ObjectInfo]) -> RunRow | None:
        known = any(name in (_OUTCOME, _METRICS, _PLAN) or name.startswith("live/") for name in objects)
        if not known or not _ID.fullmatch(run):
            return None
        outcome, metrics = self._document(objects, _OUTCOME), self._document(objects, _METRICS)
        updated = max(info.modified for info in objects.values())
        state, note = _state_of_outcome(outcome)
        if state == "running":
            live = [self._document(objects, name) for name in objects if name.startswith("live/")]
            failed = [one for one in live if one.get("state") == "failed"]
            note = ", ".join(str(one.get("node")) for one in live if one.get("state") == "running")
            note = note or "; ".join(f"{one.get('node')} failed: {one.get('error')}" for one in failed)
            state = "silent" if time.time() - updated > SILENT_SECONDS else state
        return _row(run, state, note, updated, metrics, self._document(objects, _PLAN, _config_of))


def _state_of_folder(live: Document, metrics: Document) -> tuple[str, str]:
    """The state of a run folder, and the stage under way or what failed."""
    node, error = str(live.get("node", "")), str(live.get("error", ""))
    if live.get("state") == "failed":
        return "failed", f"{node}: {error}"
    if live and not live.get("ended"):
        title = str(live.get("title", ""))
        return "running", f"{node}: {title}" if title else node
    return ("finished" if live or metrics else "silent"), ""


def _state_of_outcome(outcome: Document) -> tuple[str, str]:
    """The state of a run in a store by its outcome, which it writes at its end."""
    if not outcome:
        return "running", ""
    if outcome.get("cancelled"):
        return "cancelled", ""
    if outcome.get("succeeded"):
        same = outcome.get("unchanged")
        return "finished", f"nothing changed since run {same}" if same else ""
    errors = outcome.get("errors") or {}
    return "failed", "; ".join(f"{stage}: {line}" for stage, line in errors.items())


def _row(run: str, state: str, note: str, updated: float, metrics: Document, settings: Document) -> RunRow:
    verdict = metrics.get("verdict") or {}
    model = metrics.get("model") or (settings.get("model") or {}).get("name") or ""
    timings = [one.get("seconds") for one in metrics.get("timings") or ()]
    return RunRow(
        id=run,
        name=str(metrics.get("name") or settings.get("name") or run),
        state=state,
        base=str(model),
        data=_data_words(settings.get("data") or {}),
        scores={system: _score(metrics, system) for system in systems_in(metrics)},
        verdict=_verdict_words(verdict),
        better=verdict.get("better"),
        promoted=bool(verdict.get("promoted")),
        seconds=sum(filter(is_number, timings)) if timings else None,
        updated=updated,
        note=note,
        seed=settings.get("seed", metrics.get("seed")),
    )


def _score(metrics: Document, system: str) -> Score:
    before = metrics.get("base") or {}
    after = metrics.get("after_rl") or metrics.get("after_sft") or {}
    key = f"{system}_accuracy"
    is_loss = before.get(key, after.get(key)) is None and bool(before or after)
    key = f"{system}_loss" if is_loss else key
    first, last = (value if is_number(value := part.get(key)) else None for part in (before, after))
    return Score(first, last, is_loss)


def _verdict_words(verdict: Document) -> str:
    if not verdict:
        return ""
    against = f"version {verdict['incumbent']}" if verdict.get("incumbent") is not None else "the base"
    text = f"{'better' if verdict.get('better') else 'not better'} than {against}"
    return f"{text}, promoted" if verdict.get("promoted") else text


def _data_words(data: Document) -> str:
    several = [str(one.get("source")) for one in data.get("sources") or ()]
    return ", ".join(several or [str(data.get("source") or "")])


def _config_of(plan: Document) -> Document:
    """The settings in a plan, as a run folder and as a store keeps it."""
    inner = plan.get("plan", plan)
    config = inner.get("config") if isinstance(inner, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _steps(path: Path) -> list[dict[str, float]]:
    try:
        lines: Iterable[str] = _small(path).decode().splitlines()
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError, LoraparError):
        return []


def _small(path: Path) -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise StorageError(f"{path}: is larger than {_MOST_BYTES:,} bytes, which no page shows")
    return path.read_bytes()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
