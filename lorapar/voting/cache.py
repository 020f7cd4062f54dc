"""What teachers have said before, by content: a second run over grown data asks only about what is new.

The key of a vote is the sha256 of all it depends on: the example's question and answer, the template with its label
words, the teacher's name, the identity of its model, the backend and the number format. Votes lie in one SQLite file;
where there is an object store, new ones also go there as segments that every other machine reads, so a lost machine
costs no more than what was not yet sent.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from lorapar.basemodel import resolve_model
from lorapar.config import ModelConfig, TeacherConfig
from lorapar.errors import StorageError
from lorapar.records import Example, Vote, digest_of
from lorapar.store import ObjectStore, storage_errors
from lorapar.store.file_system import has_record_locks, say_no_locks
from lorapar.voting.teacher import teacher_model
from lorapar.voting.templates import target_text, template_digest

FLUSH_VOTES = 256
FLUSH_SECONDS = 2.0
"""Votes are written to the local file this often,"""
SEND_VOTES = 4096
SEND_SECONDS = 30.0
"""and sent to the store this often."""
VERSION = 1
"""Raised whenever the same question gets another answer from lorapar's own code: it decides every key."""
_LOOK_UP = 512
_NO_LOCKS = ("locking protocol", "disk I/O error", "unable to open database file")
"""What SQLite says on a file system without fcntl locks or shared memory."""
_KEPT = {"label", "confidence", "log_probs", "template", "raw", "tokens", "thinking_tokens"}


class VoteCache:
    """Votes by content, in the file `path`.

    `identify` gives the digest of what a teacher's votes depend on besides the example; it is called when a teacher is
    first looked up, and may raise the LoraparError of a teacher that cannot be had.
    """

    def __init__(
        self,
        path: Path,
        teachers: Sequence[TeacherConfig],
        identify: Callable[[TeacherConfig], str],
        store: ObjectStore | None = None,
    ) -> None:
        self._path = path
        self._teachers = {teacher.name: teacher for teacher in teachers}
        self.identity = cache(lambda name: identify(self._teachers[name]))
        """What a teacher's votes depend on besides the example, as a digest, by the teacher's name."""
        self._store = store
        self._unwritten: list[tuple[bytes, str]] = []
        self._unsent: dict[str, list[tuple[bytes, str]]] = {}
        self._written = self._sent = time.monotonic()
        self._fetched: set[str] = set()
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _usable(path):
            self._file = _opened(path)

    def recall(self, name: str, examples: Sequence[Example]) -> Iterator[Vote]:
        """What this teacher once said about these examples, in their order, each marked as cached."""
        config, identity = self._teachers[name], self.identity(name)
        self._fetch(identity)
        for start in range(0, len(examples), _LOOK_UP):
            part = examples[start : start + _LOOK_UP]
            keys = [vote_key(identity, example) for example in part]
            found = self._look_up(keys)
            for example, key in zip(part, keys, strict=True):
                if key in found:
                    known = json.loads(found[key])
                    yield Vote(example_id=example.id, teacher=name, weight=config.weight, cached=True, **known)

    def keep(self, name: str, example: Example, vote: Vote) -> None:
        """Remember a vote; it is safe after the next flush."""
        identity = self.identity(name)
        entry = (vote_key(identity, example), vote.model_dump_json(include=_KEPT, exclude_none=True))
        self._unwritten.append(entry)
        if self._store is not None:
            self._unsent.setdefault(identity, []).append(entry)
        now = time.monotonic()
        if len(self._unwritten) >= FLUSH_VOTES or now - self._written >= FLUSH_SECONDS:
            self._write()
        if sum(map(len, self._unsent.values())) >= SEND_VOTES or now - self._sent >= SEND_SECONDS:
            self._send()

    def flush(self) -> None:
        """Write what is remembered to the local file and to the store."""
        self._write()
        self._send()

    def __enter__(self) -> VoteCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self._file.close()

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        marks = ", ".join("?" * len(keys))
        with _usable(self._path):
            rows = self._file.execute(f"SELECT key, vote FROM votes WHERE key IN ({marks})", keys)  # noqa: S608
            return {**dict(rows), **{key: vote for key, vote in self._unwritten if key in set(keys)}}

    def _write(self) -> None:
        with _usable(self._path), self._file:
            self._file.executemany("INSERT OR IGNORE INTO votes VALUES (?, ?)", self._unwritten)
        self._unwritten = []
        self._written = time.monotonic()

    def _send(self) -> None:
        """One segment a teacher, named after its own contents."""
        self._sent = time.monotonic()
        if self._store is None:
            return
        for identity, entries in self._unsent.items():
            data = "".join(f"{key.hex()} {vote}\n" for key, vote in entries).encode()
            name = f"{_folder(identity)}{hashlib.sha256(data).hexdigest()}.txt"
            self._store.write_if_absent(name, data)
            with _usable(self._path), self._file:
                self._file.execute("INSERT OR IGNORE INTO segments VALUES (?)", (name,))
        self._unsent = {}

    def _fetch(self, identity: str) -> None:
        """Bring the segments that other machines have sent, once a teacher."""
        if self._store is None or identity in self._fetched:
            return
        self._fetched.add(identity)
        with _usable(self._path):
            have = {name for (name,) in self._file.execute("SELECT key FROM segments")}
        for found in self._store.list(_folder(identity)):
            if found.key in have:
                continue
            lines = self._store.read(found.key).decode().splitlines()
            entries = [(bytes.fromhex(key), vote) for key, _, vote in (line.partition(" ") for line in lines)]
            with _usable(self._path), self._file:
                self._file.executemany("INSERT OR IGNORE INTO votes VALUES (?, ?)", entries)
                self._file.execute("INSERT OR IGNORE INTO segments VALUES (?)", (found.key,))


def vote_key(identity: str, example: Example) -> bytes:
    """sha256 of all that a vote depends on; the row's id is not among it."""
    return hashlib.sha256(f"{identity}\0{len(example.question)}\0{example.question}{example.answer}".encode()).digest()


def teacher_identity(config: TeacherConfig, base: ModelConfig, *, role_play: bool) -> str:
    """Digest of what a teacher's votes depend on besides the example.

    What an endpoint serves is known by its address, its name, the `revision` that the settings give it and what they
    add to requests; who asks (keys and headers) makes no other answer.
    """
    return digest_of(
        {
            "version": VERSION,
            "teacher": config.name,
            "backend": config.backend,
            "model": _served(config) if config.backend == "openai" else _weights(config, base),
            "template": template_digest(config.template, target_text(base), role_play),
        }
    )


def _served(config: TeacherConfig) -> dict[str, Any]:
    served: dict[str, Any] = {"endpoint": config.endpoint, "name": config.model, "revision": config.revision}
    if config.openai is not None and config.openai.extra_body:
        served["extra_body"] = config.openai.extra_body
    return served


def _weights(config: TeacherConfig, base: ModelConfig) -> dict[str, str | None]:
    model = resolve_model(teacher_model(config, base))
    quantization = config.vllm.quantization if config.vllm else None
    return {"digest": model.digest, "revision": model.revision, "dtype": config.dtype, "quantization": quantization}


def _folder(identity: str) -> str:
    return f"votes/{identity}/"


def _opened(path: Path) -> sqlite3.Connection:
    """The file with its tables; without SQLite's own locks and shared memory where the file system has none."""
    if has_record_locks(path.parent):  # without, SQLite would wait a minute and take its own file for a busy one
        try:
            return _with_tables(sqlite3.connect(path, timeout=60.0), "WAL")
        except sqlite3.OperationalError as error:
            if not any(word in str(error) for word in _NO_LOCKS):
                raise
            say_no_locks(path.parent, error)
    address = f"file:{quote(str(path.absolute()))}?nolock=1"
    return _with_tables(sqlite3.connect(address, timeout=60.0, uri=True), "TRUNCATE")


def _with_tables(file: sqlite3.Connection, journal_mode: str) -> sqlite3.Connection:
    try:
        file.execute(f"PRAGMA journal_mode = {journal_mode}")
        file.execute("CREATE TABLE IF NOT EXISTS votes (key BLOB PRIMARY KEY, vote TEXT) WITHOUT ROWID")
        file.execute("CREATE TABLE IF NOT EXISTS segments (key TEXT PRIMARY KEY) WITHOUT ROWID")
        file.commit()
    except sqlite3.Error:
        file.close()
        raise
    return file


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """What SQLite says about a file it cannot use, as one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"{path}: the cache of votes cannot be used ({error}); free some room, or remove the file (votes are then "
            "asked again)"
        ) from error
