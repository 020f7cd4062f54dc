"""Immutable versions: integers claimed by write-if-absent, visible from the moment their manifest is written.

A content has one version. `digests/<sha256>.json` says which; of publishers that race with one content, the first to
write it decides, and the others finish that version. A number whose publisher lost such a race, or died before it,
stays unused. A version that was collected leaves its pointer closed (`null`): the content may come back, under a new
number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry.layout import adapter_prefix, claim_key, digest_key, manifest_key, number_of, version_prefix
from lorapar.registry.who import who
from lorapar.store import (
    MANIFEST,
    FileEntry,
    Manifest,
    NotFoundError,
    ObjectStore,
    file_sha256,
    require_conditional_writes,
)
from lorapar.store.base import Transfer

KIND = "adapter"
"""Kind in the manifests of versions."""


class Version(BaseModel):
    """One version of an adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    number: int
    digest: str
    """Digest of its manifest: equal content, equal digest."""

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Claim(BaseModel):
    """claim.json: how a version came to be published; no part of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    digest: str
    claimed_at: str
    by: str
    run: str = ""
    """Address of the run that made it: its folder, or its identity in a pipeline."""
    images: dict[str, str] = Field(default_factory=dict)
    """Container images the run was made with, by name; empty outside containers."""
    verification: dict[str, Any] = Field(default_factory=dict)
    """What comparing it with the trained model measured."""


class _Pointer(BaseModel):
    """digests/<sha256>.json."""

    version: int | None


def content_manifest(folder: Path) -> Manifest:
    """The manifest of a folder's files as a version would have it; the folder's own seal does not count."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    if not paths:
        raise BadInputError(f"{folder}: there is nothing in it to publish")
    return Manifest(
        kind=KIND,
        files={
            path.relative_to(folder).as_posix(): FileEntry(size_bytes=path.stat().st_size, sha256=file_sha256(path))
            for path in paths
        },
    )


class Versions:
    """The versions of all adapters in one store."""

    def __init__(self, store: ObjectStore, before_visible: Callable[[Version], None] = lambda version: None) -> None:
        self._store = store
        self._before_visible = before_visible

    def find(self, name: str, digest: str) -> Version | None:
        """The visible version with this content; None where there is none."""
        pointer, _ = self._pointer(name, digest)
        if pointer is None or pointer.version is None:
            return None
        return self.get(name, pointer.version)

    def get(self, name: str, number: int) -> Version | None:
        """A visible version; None where its manifest is not there."""
        manifest = self.manifest(name, number)
        return None if manifest is None else Version(name=name, number=number, digest=manifest.digest)

    def manifest(self, name: str, number: int) -> Manifest | None:
        """The manifest of a version, None where there is none; raises IntegrityError for one that cannot be read."""
        try:
            return Manifest.model_validate_json(self._store.read(manifest_key(name, number)))
        except NotFoundError:
            return None
        except ValidationError as error:
            raise IntegrityError(
                f"{self._store.address}/{manifest_key(name, number)}: not a manifest ({error.errors()[0]['msg']}); "
                "publish the adapter again"
            ) from None

    def claim(self, version: Version) -> Claim:
        """How a version came to be published."""
        return Claim.model_validate_json(self._store.read(claim_key(version.name, version.number)))

    def numbers(self, name: str) -> list[int]:
        """Numbers of the visible versions, lowest first."""
        return sorted(number for number, key in self._keys(name) if key == manifest_key(name, number))

    def publish(self, name: str, folder: Path, claim: Claim, manifest: Manifest) -> Version:
        """Make a folder's content a version; returns the one that has it already, where there is one."""
        while True:
            number = self._claimed(name, claim)
            version = Version(name=name, number=number, digest=manifest.digest)
            if self.manifest(name, number) is not None:
                return version
            # Missing although its pointer leads there: unfinished, which we finish. Collecting closes the pointer
            # before it takes a manifest away, so where it is closed now, begin again under another number.
            pointer, _ = self._pointer(name, manifest.digest)
            if pointer is not None and pointer.version == number:
                self._upload(version, folder, manifest)
                return version

    def close_pointer(self, version: Version) -> None:
        """Take back that a content has a version: what is published from now on gets another number."""
        self._point(version, _Pointer(version=None), only_from=version.number)

    def reopen_pointer(self, version: Version) -> None:
        """Undo `close_pointer`, unless the content was published again meanwhile."""
        self._point(version, _Pointer(version=version.number), only_from=None)

    def damaged(self, version: Version, manifest: Manifest) -> Iterator[str]:
        """Files of a version that are missing or whose bytes are not those of its manifest.

        Those of another size come first; only then are the others fetched, one at a time, and compared by sha256.
        """
        wrong = self._missing(version, manifest)
        yield from wrong
        prefix = version_prefix(version.name, version.number)
        with tempfile.TemporaryDirectory(prefix="lorapar-") as room:
            copy = Path(room) / "file"
            for file in (file for file in manifest.files if file not in wrong):
                self._store.download(prefix + file, copy)
                if file_sha256(copy) != manifest.files[file].sha256:
                    yield file

    def restore(self, version: Version, folder: Path, manifest: Manifest) -> list[str]:
        """Put back the files of a version whose bytes are not those of its manifest; returns their names.

        `folder` holds the same content once more. A version never changes: this undoes a change by somebody else.
        """
        wrong = sorted(self.damaged(version, manifest))
        self._store.upload_all(_transfers(version, folder, manifest, wrong))
        return wrong

    def _upload(self, version: Version, folder: Path, manifest: Manifest) -> None:
        """All files at once; the manifest, which makes them a version, only when every one of them is there."""
        # An object becomes visible whole, so what an earlier, killed call uploaded is good.
        self._store.upload_all(_transfers(version, folder, manifest, self._missing(version, manifest)))
        self._before_visible(version)
        key = manifest_key(version.name, version.number)
        self._store.write_if_absent(key, manifest.model_dump_json(indent=2).encode())

    def _missing(self, version: Version, manifest: Manifest) -> list[str]:
        """Files of a version that are not there, or not of the size its manifest names; nothing is downloaded."""
        prefix = version_prefix(version.name, version.number)
        there = {entry.key: entry.size_bytes for entry in self._store.list(prefix)}
        return [file for file, entry in manifest.files.items() if there.get(prefix + file) != entry.size_bytes]

    def _claimed(self, name: str, claim: Claim) -> int:
        """The number this content has, or a new one that no other publisher has."""
        pointer, token = self._pointer(name, claim.digest)
        if pointer is not None and pointer.version is not None:
            return pointer.version
        require_conditional_writes(self._store, "versions")
        number = max((number for number, _ in self._keys(name)), default=0) + 1
        while not self._store.write_if_absent(claim_key(name, number), claim.model_dump_json(indent=2).encode()):
            number += 1
        key, data = digest_key(name, claim.digest), _Pointer(version=number).model_dump_json().encode()
        first = self._store.write_if_absent(key, data) if token is None else self._changed(key, data, token)
        return number if first else self._claimed(name, claim)

    def _changed(self, key: str, data: bytes, token: str) -> bool:
        return self._store.write_if_unchanged(key, data, token)

    def _point(self, version: Version, to: _Pointer, *, only_from: int | None) -> None:
        pointer, token = self._pointer(version.name, version.digest)
        if pointer is not None and token is not None and pointer.version == only_from:
            self._store.write_if_unchanged(
                digest_key(version.name, version.digest), to.model_dump_json().encode(), token
            )

    def _pointer(self, name: str, digest: str) -> tuple[_Pointer | None, str | None]:
        try:
            data, token = self._store.read_versioned(digest_key(name, digest))
        except NotFoundError:
            return None, None
        return _Pointer.model_validate_json(data), token

    def _keys(self, name: str) -> Iterator[tuple[int, str]]:
        for entry in self._store.list(adapter_prefix(name)):
            number = number_of(entry.key, name)
            if number is not None:
                yield number, entry.key


def _transfers(version: Version, folder: Path, manifest: Manifest, files: Iterable[str]) -> list[Transfer]:
    """From a folder to where a version lies; a file that is not what the manifest says is refused on the way."""
    prefix = version_prefix(version.name, version.number)
    entries = ((file, manifest.files[file]) for file in files)
    return [Transfer(folder / file, prefix + file, entry.size_bytes, entry.sha256) for file, entry in entries]


def new_claim(
    digest: str,
    run: str = "",
    images: dict[str, str] | None = None,
    verification: dict[str, Any] | None = None,
) -> Claim:
    """A claim in the name of whoever runs this, now."""
    return Claim(
        digest=digest,
        claimed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=who(),
        run=run,
        images=images or {},
        verification=verification or {},
    )
