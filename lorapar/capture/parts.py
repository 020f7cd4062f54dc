"""Where what was captured is in a store, and what is done with it there: written, read, deleted, pruned.

    capture/<name>/capture.json                               the settings it is kept by
    capture/<name>/date=<day>/part-<time>-<random>.parquet    requests with their answers, by the day of the request
    capture/<name>/feedback/date=<day>/part-….parquet         what persons said of answers
    capture/<name>/deleted/<digest>.json                      a request that was deleted, by the digest of its id

A part never changes but by a deletion, which rewrites it without the request; what was deleted stays left out of
whatever is read later, also where a copy of an old part comes back. The record of a deletion is removed by retention,
once every day on which that request can have been captured is older than what is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any

from lorapar.capture.records import CapturedRequest, Feedback, Row, from_parquet, request_digest, to_parquet
from lorapar.config.capture import CaptureConfig
from lorapar.config.mistakes import validated
from lorapar.errors import BadInputError, IntegrityError, StaleError, nearest
from lorapar.store import NotFoundError, ObjectInfo, ObjectStore

ROOT = "capture"
_SETTINGS = "capture.json"
_DELETED = "deleted/"
_PART = re.compile(r"(?:feedback/)?date=(\d{4}-\d\d-\d\d)/part-(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f]{8})\.parquet")
_READ_AT_ONCE = 8
_ATTEMPTS = 5


@dataclass(frozen=True)
class Part:
    """One file of rows."""

    info: ObjectInfo
    day: date
    written: str
    """When, as in its name: equal in length, so that texts are in the order of time."""
    token: str
    """The random end of its name."""
    of_feedback: bool


@dataclass(frozen=True)
class Deleted:
    """What a deletion took out."""

    requests: int
    feedback: int
    parts: int
    """Files that were rewritten or removed."""


@dataclass(frozen=True)
class Pruned:
    """What was older than it may be."""

    days: tuple[date, ...]
    parts: int
    size_bytes: int


class Capture:
    """One capture of a store."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store, self.name = store, name
        self._prefix = f"{ROOT}/{name}/"

    @property
    def where(self) -> str:
        """Its address."""
        return f"{self.store.address}/{self._prefix.rstrip('/')}"

    def describe(self, config: CaptureConfig) -> None:
        """Write down by which settings it is kept, for those who read and prune it."""
        text = config.model_dump_json(indent=2, exclude={"address"})
        self.store.write(self._prefix + _SETTINGS, text.encode() + b"\n")

    def settings(self) -> CaptureConfig | None:
        """The settings that the server wrote down last; None where it has written none. Raises IntegrityError."""
        try:
            data = self.store.read(self._prefix + _SETTINGS)
        except NotFoundError:
            return None
        try:
            return validated(CaptureConfig, json.loads(data), f"{self.where}/{_SETTINGS}")
        except (ValueError, BadInputError) as error:
            raise IntegrityError(f"{self.where}/{_SETTINGS}: cannot be read ({error}); restart the server") from None

    def write(self, rows: Sequence[Row], now: datetime) -> list[str]:
        """Write rows of one kind, one part for each day; the parts' keys."""
        keys: list[str] = []
        written = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        for day in sorted({row.day for row in rows}):
            of_day = [row for row in rows if row.day == day]
            below = "feedback/" if isinstance(of_day[0], Feedback) else ""
            name = f"{below}date={day}/part-{written}-{secrets.token_hex(4)}.parquet"
            self.store.write(self._prefix + name, to_parquet(of_day))
            keys.append(self._prefix + name)
        return keys

    def parts(self) -> list[Part]:
        """Every part, in the order of their keys; files of other names are none of ours."""
        return [part for below in ("", "feedback/") for part in self._listed(below)]

    def _listed(self, below: str) -> Iterator[Part]:
        """Parts of one kind, the earliest day first; what is not asked for is not listed."""
        for info in self.store.list(f"{self._prefix}{below}date="):
            if match := _PART.fullmatch(info.key.removeprefix(self._prefix)):
                try:
                    day = date.fromisoformat(match[1])
                except ValueError:
                    continue
                yield Part(info, day, match[2], match[3], below != "")

    def requests(self, parts: Iterable[Part], read: dict[str, str] | None = None) -> list[CapturedRequest]:
        """The requests of parts, those that were deleted left out; raises IntegrityError for a damaged part.

        Into `read` goes the sha256 of each part, by its key.
        """
        return self._rows([part for part in parts if not part.of_feedback], CapturedRequest, read)

    def feedback(self, parts: Iterable[Part], read: dict[str, str] | None = None) -> list[Feedback]:
        """What persons said, as `requests`."""
        return self._rows([part for part in parts if part.of_feedback], Feedback, read)

    def deleted(self) -> frozenset[str]:
        """Digests of the requests that were deleted."""
        prefix = f"{self._prefix}{_DELETED}"
        return frozenset(info.key.removeprefix(prefix).removesuffix(".json") for info in self.store.list(prefix))

    def delete(self, request_id: str, now: datetime) -> Deleted:
        """Take a request out of every part, with what was said of it; whatever comes later of it is left out too.

        Raises StaleError where somebody else keeps writing the same part.
        """
        digest = request_digest(request_id)
        record = json.dumps({"deleted_at": now.astimezone(UTC).isoformat(timespec="seconds")}).encode()
        self.store.write(f"{self._prefix}{_DELETED}{digest}.json", record)
        counts = {False: 0, True: 0}
        parts = 0
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            for part, gone in pool.map(lambda part: (part, self.take_out(part.info.key, {digest})), self.parts()):
                counts[part.of_feedback] += gone
                parts += bool(gone)
        return Deleted(counts[False], counts[True], parts)

    def prune(self, retention_days: int, now: datetime) -> Pruned:
        """As `expire`, and take out what has come back of deleted requests, for which every part is read."""
        pruned = self.expire(retention_days, now)
        if deleted := self.deleted():
            for part in self.parts():
                self.take_out(part.info.key, deleted)
        return pruned

    def expire(self, retention_days: int, now: datetime) -> Pruned:
        """Remove every part of an older day; the names of days decide, and no other day is listed to its end.

        Records of deletions that name nothing any more go too.
        """
        first = now.astimezone(UTC).date() - timedelta(days=retention_days - 1)
        old = [
            part for below in ("", "feedback/") for part in takewhile(lambda one: one.day < first, self._listed(below))
        ]
        self.store.delete_all([part.info.key for part in old])
        self.store.delete_all(self._spent_records(first))  # last: until then the days are left out by them
        return Pruned(tuple(sorted({part.day for part in old})), len(old), sum(part.info.size_bytes for part in old))

    def _spent_records(self, first: date) -> list[str]:
        """Keys of deletions from before the first day that is kept: a request is captured before it is deleted.

        One day more is waited, for servers whose clocks differ. A record is read only where its file is as old.
        """
        before = datetime.combine(first - timedelta(days=1), datetime.min.time(), UTC)
        listed = self.store.list(f"{self._prefix}{_DELETED}")
        return [
            info.key for info in listed if info.modified < before.timestamp() and self._deleted_before(info, before)
        ]

    def _deleted_before(self, info: ObjectInfo, before: datetime) -> bool:
        try:
            return datetime.fromisoformat(json.loads(self.store.read(info.key))["deleted_at"]) < before
        except (NotFoundError, ValueError, KeyError, TypeError):
            return False  # not a record of ours, or gone already

    def _rows(self, parts: Sequence[Part], kind: type[Row], read: dict[str, str] | None) -> list[Row]:
        deleted, rows = self.deleted(), list[Row]()
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            for part, data in zip(parts, pool.map(self._bytes, parts), strict=True):
                if data is None:
                    continue
                if read is not None:
                    read[part.info.key] = hashlib.sha256(data).hexdigest()
                found = from_parquet(data, kind, f"{self.store.address}/{part.info.key}")
                rows += [row for row in found if request_digest(row.request_id) not in deleted]
        return rows

    def _bytes(self, part: Part) -> bytes | None:
        """What a part holds; None where it was pruned since it was listed."""
        try:
            return self.store.read(part.info.key)
        except NotFoundError:
            return None

    def take_out(self, key: str, digests: Iterable[str]) -> int:
        """Rewrite a part without some requests; how many rows that were. Raises StaleError as `delete`."""
        gone, kind = frozenset(digests), Feedback if key.startswith(f"{self._prefix}feedback/") else CapturedRequest
        for _ in range(_ATTEMPTS):
            try:
                data, version = self.store.read_versioned(key)
            except NotFoundError:
                return 0
            where = f"{self.store.address}/{key}"
            rows: list[Any] = from_parquet(data, kind, where)
            kept = [row for row in rows if request_digest(row.request_id) not in gone]
            if len(kept) == len(rows):
                return 0
            if not kept:
                self.store.delete(key)
                return len(rows)
            if self.store.write_if_unchanged(key, to_parquet(kept), version):
                return len(rows) - len(kept)
        raise StaleError(f"{self.store.address}/{key}: was written by somebody else all the time; try again")


def captures(store: ObjectStore) -> list[str]:
    """Names of the captures in a store."""
    keys = (info.key.split("/") for info in store.list(f"{ROOT}/"))
    return sorted({parts[1] for parts in keys if len(parts) > 2})


def known_capture(store: ObjectStore, name: str, setting: str = "") -> Capture:
    """The capture of that name; raises BadInputError with the nearest one for a name that is not there."""
    known = captures(store)
    if name not in known:
        raise BadInputError(
            f"{setting}{name}: no such capture in {store.address}{nearest(name, known)}; it has: "
            f"{', '.join(known) or 'none'}"
        )
    return Capture(store, name)
