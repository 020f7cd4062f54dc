"""What gates said about a version, beside it: a list that only grows."""

from __future__ import annotations

import json
from typing import Any

from lorapar.errors import UnreachableError
from lorapar.records import json_text
from lorapar.registry.layout import verdict_key
from lorapar.registry.versions import Version
from lorapar.store import NotFoundError, ObjectStore

_ATTEMPTS = 50


class Verdicts:
    """The verdicts of all adapters in one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, version: Version) -> list[dict[str, Any]]:
        """Every verdict on a version, oldest first."""
        return self._read(version)[0]

    def add(self, version: Version, verdict: dict[str, Any]) -> None:
        """Append a verdict, unless an equal one is there."""
        key = verdict_key(version.name, version.number)
        for _ in range(_ATTEMPTS):
            known, token = self._read(version)
            if verdict in known:
                return
            data = json_text({"schema_version": 1, "digest": version.digest, "verdicts": [*known, verdict]}).encode()
            if token is None:
                done = self._store.write_if_absent(key, data)
            else:
                done = self._store.write_if_unchanged(key, data, token)
            if done:
                return
        raise UnreachableError(f"{self._store.address}/{key}: {_ATTEMPTS} conditional writes were refused")

    def _read(self, version: Version) -> tuple[list[dict[str, Any]], str | None]:
        try:
            data, token = self._store.read_versioned(verdict_key(version.name, version.number))
        except NotFoundError:
            return [], None
        found: list[dict[str, Any]] = json.loads(data)["verdicts"]
        return found, token
