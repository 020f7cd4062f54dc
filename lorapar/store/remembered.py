"""A cache of computed texts by sha256 key, in one SQLite file and shared through an object store.

New entries also go to the store, if there is one, as segments that every other machine reads. So a lost machine loses
only entries that it had not sent. A segment's name is the sha256 of its bytes, so a damaged segment is recognised and
removed; an entry of the local file whose bytes are no text is as one that is not there. Of several entries of one key
the one that was sent last counts.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from lorapar.errors import LoraparError, StorageError
from lorapar.store.artifact import storage_errors
from lorapar.store.base import DeniedError, ObjectStore
from lorapar.store.file_system import has_record_locks, warn_no_locks

FLUSH_ENTRIES = 256
FLUSH_SECONDS = 2.0
"""Entries are written to the local file this often,"""
SEND_ENTRIES = 4096
SEND_SECONDS = 30.0
"""and sent to the store this often."""
_LOOK_UP = 512
_NO_LOCKS = ("locking protocol", "disk I/O error", "unable to open database file")
"""SQLite's errors on a file system without fcntl locks or shared memory; the second may also mean a failing disk."""
_FAILING = ("READ", "SHORT_READ", "WRITE", "FSYNC", "DIR_FSYNC", "TRUNCATE", "FSTAT", "DELETE", "CORRUPTFS", "DATA")
"""Endings of SQLITE_IOERR_ codes that have nothing to do with locks."""


class CacheFileError(StorageError):
    """The local file of a cache cannot be used; the store has not failed."""


class ContentCache:
    """Texts by key, in the file `path` (None: in memory); `kind` names them (`votes`) in messages and in the store.

    An identity is a digest of what many entries share: the store has a folder for each identity, which is read once.
    With `anew` nothing from before is recalled, only what this cache keeps itself, which takes the place of the old.
    Raises CacheFileError where the file cannot be used, and the store's own errors.
    """

    def __init__(self, path: Path | None, kind: str, store: ObjectStore | None = None, *, anew: bool = False) -> None:
        self._kind, self._store = kind, store
        self._own: set[bytes] | None = set() if anew else None
        """Keys that were kept here, where only these are recalled."""
        self._unwritten: dict[bytes, str] = {}
        self._unsent: dict[str, dict[bytes, str]] = {}
        self._written = self._sent = time.monotonic()
        self._fetched: set[str] = set()
        self._path = path
        self._file = self._opened()

    def recall(self, identity: str, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The known entries, by key."""
        if self._own is None:
            self._fetch(identity)
        else:
            keys = [key for key in keys if key in self._own]
        found: dict[bytes, str] = {}
        for start in range(0, len(keys), _LOOK_UP):
            found |= self._look_up(keys[start : start + _LOOK_UP])
        return found

    def keep(self, identity: str, key: bytes, text: str) -> None:
        """Add a text without line breaks; it is on disk after the next flush."""
        self._unwritten[key] = text
        if self._own is not None:
            self._own.add(key)
        if self._store is not None:
            self._unsent.setdefault(identity, {})[key] = text
        now = time.monotonic()
        if len(self._unwritten) >= FLUSH_ENTRIES or now - self._written >= FLUSH_SECONDS:
            self._write()
        if sum(map(len, self._unsent.values())) >= SEND_ENTRIES or now - self._sent >= SEND_SECONDS:
            self._send()

    def flush(self) -> None:
        """Write new entries to the local file and to the store."""
        self._write()
        self._send()

    def leave_store(self) -> None:
        """Stop using the store and go on with the local file."""
        self._store, self._unsent = None, {}

    def move(self, path: Path | None) -> None:
        """Go on in another file, or in memory; what is not sent yet goes with it, the store is read again.

        Raises CacheFileError where the new file cannot be used.
        """
        self._file.close()
        self._path, self._fetched = path, set()
        for entries in self._unsent.values():
            self._unwritten = {**entries, **self._unwritten}
        self._file = self._opened()

    def close(self) -> None:
        """Close the file without writing anything more."""
        self._file.close()

    def __enter__(self) -> ContentCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self.close()

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        marks = ", ".join("?" * len(keys))
        with self._usable():
            rows = self._file.execute(f"SELECT * FROM {self._kind} WHERE key IN ({marks})", keys)  # noqa: S608
            found = {key: text for key, text in rows if isinstance(text, str)}
        return found | {key: self._unwritten[key] for key in keys if key in self._unwritten}

    def _write(self) -> None:
        with self._usable(), self._file:
            # The new entry wins: one is added again only where the old one could not be read or was not to be.
            self._file.executemany(f"INSERT OR REPLACE INTO {self._kind} VALUES (?, ?)", self._unwritten.items())  # noqa: S608
        self._unwritten = {}
        self._written = time.monotonic()

    def _send(self) -> None:
        """Write one segment for each identity, named after its contents."""
        self._sent = time.monotonic()
        if self._store is None:
            return
        for identity, entries in self._unsent.items():
            data = "".join(f"{key.hex()} {text}\n" for key, text in entries.items()).encode()
            name = f"{self._folder(identity)}{hashlib.sha256(data).hexdigest()}.txt"
            if not self._store.write_if_absent(name, data) and self._own is not None:
                with suppress(DeniedError):
                    self._store.renew(name)  # it is the last word again
            self._add((), name)
        self._unsent = {}

    def _fetch(self, identity: str) -> None:
        """Fetch the segments of other machines, once for each identity, in the order in which they were sent.

        Those that are known are read again where an earlier one is new here: theirs is the last word.
        """
        if self._store is None or identity in self._fetched:
            return
        self._fetched.add(identity)
        with self._usable():
            have = {name for (name,) in self._file.execute("SELECT key FROM segments")}
        listed = sorted(self._store.list(self._folder(identity)), key=lambda one: (one.modified, one.key))
        first_new = next((place for place, one in enumerate(listed) if one.key not in have), len(listed))
        for found in listed[first_new:]:
            data = self._store.read(found.key)
            if found.key.rpartition("/")[2] != f"{hashlib.sha256(data).hexdigest()}.txt":
                with suppress(DeniedError):  # whoever may only write leaves it
                    self._store.delete(found.key)  # so that the same contents can be sent again
                continue
            # Not splitlines: a text may hold characters that end a line for Python.
            lines = (line.partition(" ") for line in data.decode().split("\n") if line)
            self._add([(bytes.fromhex(key), text) for key, _, text in lines], found.key)

    def _add(self, entries: Sequence[tuple[bytes, str]], segment: str) -> None:
        with self._usable(), self._file:
            self._file.executemany(f"INSERT OR REPLACE INTO {self._kind} VALUES (?, ?)", entries)  # noqa: S608
            self._file.execute("INSERT OR IGNORE INTO segments VALUES (?)", (segment,))

    def _folder(self, identity: str) -> str:
        return f"{self._kind}/{identity}/"

    def _opened(self) -> sqlite3.Connection:
        if self._path is None:
            return _with_tables(sqlite3.connect(":memory:"), self._kind, "MEMORY")
        try:
            with storage_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._usable():
                    return _opened(self._path, self._kind)
        except CacheFileError:
            raise
        except StorageError as error:
            raise CacheFileError(str(error)) from error.__cause__

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turn SQLite's error about an unusable file into one line."""
        try:
            yield
        except sqlite3.Error as error:
            raise CacheFileError(
                f"{self._path or 'memory'}: the cache of {self._kind} cannot be used ({error}); {self._remedy(error)}"
            ) from error

    def _remedy(self, error: sqlite3.Error) -> str:
        if "disk I/O error" in str(error):
            # SQLite has no word of its own for a quota that is used up.
            return (
                "your quota there is used up, or the disk or network drive fails (the system's log says more); free "
                "some room or repair it, or use a folder on another one"
            )
        return f"free some room, or remove the file ({self._kind} are then asked again)"


def is_damage(error: LoraparError) -> bool:
    """Whether a cache is unusable because its file is broken or is no database."""
    name = getattr(error.__cause__, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR"))


def _opened(path: Path, kind: str) -> sqlite3.Connection:
    """Open the file and make its tables; without SQLite's locks and shared memory where the file system has none."""
    if has_record_locks(path.parent):  # otherwise SQLite would wait a minute and report its own file as busy
        try:
            return _with_tables(sqlite3.connect(path, timeout=60.0), kind, "WAL")
        except sqlite3.OperationalError as error:
            if not _may_lack_locks(error):
                raise
            opened = _without_locks(path, kind)  # where that fails too, something else is wrong
            warn_no_locks(path.parent, error)
            return opened
    return _without_locks(path, kind)


def _may_lack_locks(error: sqlite3.OperationalError) -> bool:
    """Whether an error may come from missing locks or shared memory, rather than from a disk that fails."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return any(word in str(error) for word in _NO_LOCKS) and name.removeprefix("SQLITE_IOERR_") not in _FAILING


def _without_locks(path: Path, kind: str) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}?nolock=1"
    return _with_tables(sqlite3.connect(address, timeout=60.0, uri=True), kind, "TRUNCATE")


def _with_tables(file: sqlite3.Connection, kind: str, journal_mode: str) -> sqlite3.Connection:
    file.text_factory = _text
    try:
        file.execute(f"PRAGMA journal_mode = {journal_mode}")
        file.execute(f"CREATE TABLE IF NOT EXISTS {kind} (key BLOB PRIMARY KEY, entry TEXT) WITHOUT ROWID")
        file.execute("CREATE TABLE IF NOT EXISTS segments (key TEXT PRIMARY KEY) WITHOUT ROWID")
        file.commit()
    except sqlite3.Error:
        file.close()
        raise
    return file


def _text(raw: bytes) -> str | None:
    """A text of the file; None where its bytes are none, so that it alone is lost."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
