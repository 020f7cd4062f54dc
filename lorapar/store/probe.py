"""Try at an address what runs do there: `lorapar doctor --store ADDRESS`."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lorapar.errors import LoraparError, StorageError
from lorapar.store.artifact import file_sha256
from lorapar.store.base import LOCAL, DeniedError, ObjectStore, Transfer
from lorapar.store.conditional import ConditionalWrites, try_conditional_writes

_LISTED = 1000
_TRIED_BYTES = 4096


@dataclass(frozen=True)
class Probe:
    """What was found."""

    objects: str
    """The number of objects, in words."""
    unwritable: str = ""
    """Why writing fails; empty where it works."""
    parts: str = ""
    """Why large files cannot be uploaded in parts."""
    undeletable: str = ""
    """Why removing fails."""
    conditional: ConditionalWrites | None = None
    """Conditional writes; None where nothing can be written."""


def probe(store: ObjectStore) -> Probe:
    """List, upload a file whole and in parts, read it back, try conditional writes, remove what was made.

    Raises the store's error where it cannot be read, or where writing fails for another reason than a missing right.
    """
    count = sum(1 for _ in islice(store.list(), _LISTED + 1))
    objects = f"more than {_LISTED} objects" if count > _LISTED else f"{count} objects"
    key = f".lorapar/try-{uuid.uuid4().hex}"
    if refused := _denied(store, lambda: _copy_there_and_back(store, key)):
        return Probe(objects, unwritable=refused)
    parts = _copy_in_parts(store, key)
    found = try_conditional_writes(store)
    return Probe(objects, parts=parts, undeletable=_denied(store, lambda: store.delete_all([key])), conditional=found)


def _copy_there_and_back(store: ObjectStore, key: str) -> None:
    with tempfile.TemporaryDirectory(prefix="lorapar-") as room:
        sent, back = Path(room) / "sent", Path(room) / "back"
        sent.write_bytes(os.urandom(_TRIED_BYTES))
        transfer = Transfer(sent, key, _TRIED_BYTES, file_sha256(sent))
        store.upload_all([transfer])
        store.download_all([Transfer(back, key, transfer.size_bytes, transfer.sha256)])


def _copy_in_parts(store: ObjectStore, key: str) -> str:
    """Why an upload in parts fails, as files of 32 MB and more need it; empty where it works."""
    with tempfile.TemporaryDirectory(prefix="lorapar-") as room:
        sent, back = Path(room) / "sent", Path(room) / "back"
        sent.write_bytes(os.urandom(_TRIED_BYTES))
        transfer = Transfer(sent, key, _TRIED_BYTES, file_sha256(sent))
        try:
            store.upload_in_parts(transfer)
            store.download_all([Transfer(back, key, transfer.size_bytes, transfer.sha256)])
        except LoraparError as error:
            return str(error)
    return ""


def _denied(store: ObjectStore, attempt: Callable[[], None]) -> str:
    """The message about a missing right; empty where none is missing."""
    try:
        attempt()
    except DeniedError as error:
        return str(error)
    except StorageError as error:
        if store.endpoint != LOCAL or os.access(store.address, os.W_OK):
            raise
        return str(error)
    return ""
