"""Whether a store honours conditional writes: tried once for each address, and remembered in the store.

Some servers answer `200 OK` to a write with If-None-Match or If-Match and ignore the condition. Moving an alias on such
a server could lose another person's move, so it is refused.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.errors import BadInputError, UnreachableError
from lorapar.store.base import LOCAL, NotFoundError, ObjectStore, UnsupportedError

RECORD = ".lorapar/conditional-writes.json"
_RIVALS = 8


class ConditionalWrites(BaseModel):
    """The result of trying a store."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    endpoint: str
    """The server that was tried: the same bucket name on another server is another store."""
    honoured: bool
    why: str
    """The observation, in words."""
    tried: str
    """The time of the trial, ISO 8601."""


def conditional_writes(store: ObjectStore) -> ConditionalWrites:
    """The remembered result for the store's server, or else that of a trial now (a dozen small writes)."""
    try:
        known = ConditionalWrites.model_validate_json(store.read(RECORD))
        if known.endpoint == store.endpoint:
            return known
    except (NotFoundError, ValidationError):
        pass
    found = try_conditional_writes(store)
    store.write(RECORD, found.model_dump_json(indent=2).encode() + b"\n")
    return found


def require_conditional_writes(store: ObjectStore, purpose: str) -> None:
    """Refuse a `purpose`, such as `aliases`, that is unsafe without conditional writes. Raises BadInputError."""
    if store.endpoint == LOCAL:
        return  # LocalStore implements the conditions itself
    found = conditional_writes(store)
    if not found.honoured:
        raise BadInputError(
            f"{store.address}: {purpose} need a server that honours conditional writes, and this one does not "
            f"({found.why}); use another server, or update it"
        )


def try_conditional_writes(store: ObjectStore) -> ConditionalWrites:
    """Try If-None-Match and If-Match with a scratch object and eight writers at once; then remove the object."""
    key = f".lorapar/try-{uuid.uuid4().hex}"
    try:
        wrong = _first_wrong(store, key)
    except UnsupportedError as error:
        wrong = f"it answers: {error}"
    finally:
        with suppress(UnreachableError):  # without the right to delete, an object of a few bytes stays
            store.delete(key)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    why = wrong or "each condition was kept, and of eight writers that raced one won"
    return ConditionalWrites(endpoint=store.endpoint, honoured=wrong is None, why=why, tried=now)


def _first_wrong(store: ObjectStore, key: str) -> str | None:
    with ThreadPoolExecutor(_RIVALS) as pool:
        won = list(pool.map(lambda name: store.write_if_absent(key, name), [b"%d" % n for n in range(_RIVALS)]))
    if sum(won) != 1:
        return f"of {_RIVALS} writers that raced for a new object {sum(won)} were told that they won"
    data, version = store.read_versioned(key)
    if data != b"%d" % won.index(True):
        return "the writer that was told it won a race is not the one whose bytes are there"
    if store.write_if_absent(key, b"again"):
        return "If-None-Match did not keep an object from being replaced"
    if not store.write_if_unchanged(key, b"next", version):
        return "If-Match refused the version that is there"
    if store.write_if_unchanged(key, b"late", version):
        return "If-Match let a version be replaced that is gone"
    return None
