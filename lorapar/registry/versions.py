"""Immutable versions: integers claimed by write-if-absent, visible from the moment their manifest is written.

A content has one version. `digests/<sha256>.json` says which; of publishers that race with one content, the first to
write it decides, and the others finish that version. A number whose publisher lost such a race, or died before it,
stays unused. A version that was collected leaves its pointer closed (`null`): the content may come back, under a new
number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry.layout import (
    actor,
    adapter_prefix,
    checked,
    claim_key,
    digest_key,
    manifest_key,
    number_of,
    version_prefix,
)
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
_MANIFEST_REMEDY = (
    "publish the same content again, which puts it back: start the run that made the version (its claim.json names it) "
    "once more"
)
_CLAIM_REMEDY = (
    "bring back an earlier state of this object where the bucket keeps them, or delete it and publish the same content "
    "again: a new one is written then"
)


class Version(BaseModel):
    """One version of an adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    number: int
    digest: str
    """Digest of its manifest: equal content, equal digest."""

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Claim(BaseModel):
    """claim.json: how a version came to be published; no part of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    digest: str
    claimed_at: str
    by: str
    run: str = ""
    """Address of the run that made it: its folder, or its identity in a pipeline."""
    images: dict[str, str] = Field(default_factory=dict)
    """Container images the run was made with, by name; empty outside containers."""
    trackers: dict[str, str] = Field(default_factory=dict)
    """What the run goes by in experiment trackers, by name."""
    verification: dict[str, Any] = Field(default_factory=dict)
    """What comparing it with the trained model measured."""


class _Pointer(BaseModel):
    """digests/<sha256>.json."""

    model_config = ConfigDict(defer_build=True)

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
        pointer, _ = self.pointer(name, digest)
        if pointer is None or pointer.version is None:
            return None
        return self.get(name, pointer.version)

    def get(self, name: str, number: int) -> Version | None:
        """A visible version; None where its manifest is not there."""
        manifest = self.manifest(name, number)
        return None if manifest is None else Version(name=name, number=number, digest=manifest.digest)

    def manifest(self, name: str, number: int) -> Manifest | None:
        """The manifest of a version, None where there is none; raises IntegrityError for one that cannot be read."""
        key = manifest_key(name, number)
        try:
            data = self._store.read(key)
        except NotFoundError:
            return None
        return checked(Manifest, data, f"{self._store.address}/{key}", "a manifest", _MANIFEST_REMEDY)

    def claim(self, version: Version) -> Claim:
        """How a version came to be published; raises IntegrityError where its record is damaged or missing."""
        found = self.find_claim(version.name, version.number)
        if found is None:
            address = f"{self._store.address}/{claim_key(version.name, version.number)}"
            raise IntegrityError(f"{address}: missing; publish the content of {version} again, which writes a new one")
        return found

    def find_claim(self, name: str, number: int) -> Claim | None:
        """As `claim`, but None where there is none."""
        key = claim_key(name, number)
        try:
            data = self._store.read(key)
        except NotFoundError:
            return None
        return checked(Claim, data, f"{self._store.address}/{key}", "a claim", _CLAIM_REMEDY)

    def numbers(self, name: str) -> list[int]:
        """Numbers of the visible versions, lowest first."""
        return sorted(number for number, key in self._keys(name) if key == manifest_key(name, number))

    def publish(self, name: str, folder: Path, claim: Claim, manifest: Manifest) -> Version:
        """Make a folder's content a version; returns the one that has it already, where there is one."""
        while True:
            number = self._claimed(name, claim)
            version = Version(name=name, number=number, digest=manifest.digest)
            self.mend_manifest(name, folder, manifest)
            if self.manifest(name, number) is not None:
                self._store.write_if_absent(claim_key(name, number), _claim_bytes(claim))  # somebody deleted a bad one
                return version
            # Missing although its pointer leads there: unfinished, which we finish. Collecting closes the pointer
            # before it takes a manifest away, so where it is closed now, begin again under another number.
            pointer, _ = self.pointer(name, manifest.digest)
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

    def mend_manifest(self, name: str, folder: Path, manifest: Manifest) -> Version | None:
        """Put back the damaged manifest of the version that has a folder's content; None where there is none damaged.

        Which version that is, is what its pointer and, where it can be read, its claim say. Files come first: with a
        manifest that can be read the version is there again.
        """
        pointer, _ = self.pointer(name, manifest.digest)
        if pointer is None or pointer.version is None:
            return None
        key = manifest_key(name, pointer.version)
        try:
            data, token = self._store.read_versioned(key)
            if checked(Manifest, data, key, "a manifest", "").digest == manifest.digest:
                return None
        except NotFoundError:
            return None
        except IntegrityError:
            pass
        claim = self.find_claim(name, pointer.version)
        if claim is not None and claim.digest != manifest.digest:
            return None  # the pointer leads to the version of another content
        version = Version(name=name, number=pointer.version, digest=manifest.digest)
        self.restore(version, folder, manifest)
        self._store.write_if_unchanged(key, _manifest_bytes(manifest), token)
        return version

    def _upload(self, version: Version, folder: Path, manifest: Manifest) -> None:
        """All files at once; the manifest, which makes them a version, only when every one of them is there."""
        # An object becomes visible whole, so what an earlier, killed call uploaded is good.
        self._store.upload_all(_transfers(version, folder, manifest, self._missing(version, manifest)))
        self._before_visible(version)
        key = manifest_key(version.name, version.number)
        self._store.write_if_absent(key, _manifest_bytes(manifest))

    def _missing(self, version: Version, manifest: Manifest) -> list[str]:
        """Files of a version that are not there, or not of the size its manifest names; nothing is downloaded."""
        prefix = version_prefix(version.name, version.number)
        there = {entry.key: entry.size_bytes for entry in self._store.list(prefix)}
        return [file for file, entry in manifest.files.items() if there.get(prefix + file) != entry.size_bytes]

    def _claimed(self, name: str, claim: Claim) -> int:
        """The number this content has, or a new one that no other publisher has."""
        pointer, token = self.pointer(name, claim.digest)
        if pointer is not None and pointer.version is not None:
            return pointer.version
        require_conditional_writes(self._store, "versions")
        number = max((number for number, _ in self._keys(name)), default=0) + 1
        while not self._store.write_if_absent(claim_key(name, number), _claim_bytes(claim)):
            number += 1
        key, data = digest_key(name, claim.digest), _Pointer(version=number).model_dump_json().encode()
        first = self._store.write_if_absent(key, data) if token is None else self._changed(key, data, token)
        return number if first else self._claimed(name, claim)

    def _changed(self, key: str, data: bytes, token: str) -> bool:
        return self._store.write_if_unchanged(key, data, token)

    def _point(self, version: Version, to: _Pointer, *, only_from: int | None) -> None:
        pointer, token = self.pointer(version.name, version.digest)
        if pointer is not None and token is not None and pointer.version == only_from:
            self._store.write_if_unchanged(
                digest_key(version.name, version.digest), to.model_dump_json().encode(), token
            )

    def digests(self, name: str) -> list[str]:
        """Digests of the contents that have, or had, a version of an adapter."""
        prefix = digest_key(name, "").removesuffix(".json")
        return [entry.key.removeprefix(prefix).removesuffix(".json") for entry in self._store.list(prefix)]

    def pointer(self, name: str, digest: str) -> tuple[_Pointer | None, str | None]:
        """Which version has a content, as recorded, and the token to replace that with; raises IntegrityError."""
        key = digest_key(name, digest)
        try:
            data, token = self._store.read_versioned(key)
        except NotFoundError:
            return None, None
        address = f"{self._store.address}/{key}"
        try:
            return checked(_Pointer, data, address, "a pointer to a version", ""), token
        except IntegrityError as error:
            number = next((one.number for one in self._readable(name) if one.digest == digest), None)
            right = _Pointer(version=number).model_dump_json()
            why = "that version has this content" if number else "no version has this content"
            raise IntegrityError(f"{error}write {right} into it ({why})") from None

    def _readable(self, name: str) -> Iterator[Version]:
        for number in self.numbers(name):
            with suppress(IntegrityError):
                found = self.get(name, number)
                if found is not None:
                    yield found

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


def _manifest_bytes(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode()


def _claim_bytes(claim: Claim) -> bytes:
    # Versions of lorapar without trackers refuse a claim with a field that they do not know.
    return claim.model_dump_json(indent=2, exclude=None if claim.trackers else {"trackers"}).encode()


def new_claim(
    digest: str,
    run: str = "",
    images: dict[str, str] | None = None,
    verification: dict[str, Any] | None = None,
    trackers: dict[str, str] | None = None,
) -> Claim:
    """A claim in the name of the current user, now."""
    return Claim(
        digest=digest,
        claimed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=actor(),
        run=run,
        images=images or {},
        verification=verification or {},
        trackers=trackers or {},
    )
