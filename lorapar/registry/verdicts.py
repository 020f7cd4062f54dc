"""Verdicts: what a gate said about a version and against which incumbent (verdict.json, version.json), and the list of
them beside each version, which only grows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lorapar.errors import UnreachableError
from lorapar.records import json_text, read_json
from lorapar.registry.layout import checked, verdict_key
from lorapar.registry.versions import Version
from lorapar.store import NotFoundError, ObjectStore

VERSION_FILE = "version.json"
VERDICT_FILE = "verdict.json"
PROMOTION_FILE = "promotion.json"
_ATTEMPTS = 50
_REMEDY = (
    "bring back an earlier state of this object where the bucket keeps them, or delete it and start the run that made "
    "the version once more: its gate writes the verdict again"
)


class Incumbent(BaseModel):
    """The version that production named when a candidate was published."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    version: int
    digest: str


class PublishedVersion(BaseModel):
    """version.json: which version a run published, and what it has to beat."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    registry: str
    """Address."""
    name: str
    version: int
    digest: str
    incumbent: Incumbent | None
    """What production named; where that is this very version already, what it named before. None: no version."""
    verification: dict[str, Any] = Field(default_factory=dict)
    """What comparing it with the trained model measured."""

    @property
    def reference(self) -> str:
        """`NAME@3`."""
        return f"{self.name}@{self.version}"


class Verdict(BaseModel):
    """verdict.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    better: bool
    reasons: tuple[str, ...]
    candidate: Incumbent
    """Version and digest that were judged."""
    incumbent: Incumbent | None
    """What it was judged against; None: the base model."""
    settings: dict[str, Any]
    """The section `gate` it was judged by."""
    figures: dict[str, Any]
    """Comparisons and guards, as `lorapar.evaluation.gate.Judged` has them."""


class Promotion(BaseModel):
    """promotion.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    promoted: bool
    reason: str
    alias: str
    version: int
    previous: int | None
    """Version the alias named before."""


def read_published(folder: Path) -> PublishedVersion:
    """The version.json of an artifact."""
    return PublishedVersion.model_validate(read_json(folder / VERSION_FILE))


def read_verdict(folder: Path) -> Verdict:
    """The verdict.json of an artifact."""
    return Verdict.model_validate(read_json(folder / VERDICT_FILE))


class _Judged(BaseModel):
    """What of a verdict is read again; later versions may put more into it."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    better: bool
    reasons: tuple[str, ...] = ()
    incumbent: Incumbent | None = None


class _VerdictFile(BaseModel):
    """verdicts/<version>.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int
    digest: str
    verdicts: tuple[_Judged, ...] = Field(min_length=1)


class Verdicts:
    """The verdicts of all adapters in one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, version: Version) -> list[dict[str, Any]]:
        """Every verdict on a version, oldest first."""
        return self._read(version)[0]

    def add(self, version: Version, verdict: dict[str, Any]) -> None:
        """Append a verdict, unless the latest is equal: an older one does not say what was said last."""
        key = verdict_key(version.name, version.number)
        for _ in range(_ATTEMPTS):
            known, token = self._read(version)
            if known and verdict == known[-1]:
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
        key = verdict_key(version.name, version.number)
        try:
            data, token = self._store.read_versioned(key)
        except NotFoundError:
            return [], None
        found = checked(_VerdictFile, data, f"{self._store.address}/{key}", "a list of verdicts", _REMEDY)
        return [verdict.model_dump(mode="json", exclude_unset=True) for verdict in found.verdicts], token
