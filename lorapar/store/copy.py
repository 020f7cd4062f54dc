"""Copies of folders at an address and back, under their own names, so that other tools can read them too.

A tree that lorapar wrote has a manifest, written last and only once: readers see all of it or none, and compare every
byte. A tree without a manifest, written by another tool, is read as the versions that its listing shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Progress
from lorapar.records import digest_of
from lorapar.store.artifact import MANIFEST, Manifest, describe
from lorapar.store.base import NotFoundError, ObjectInfo, ObjectStore, Transfer
from lorapar.store.s3_parts import part_etag
from lorapar.store.tree import fetch_missing, filling, moving


@dataclass(frozen=True)
class RemoteTree:
    """The tree at an address."""

    store: ObjectStore
    manifest: Manifest | None
    """The manifest with names, sizes and digests, if the tree has one."""
    listed: dict[str, ObjectInfo]
    """The listing, where there is no manifest."""

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        return sorted(self.manifest.files if self.manifest is not None else self.listed)

    @cached_property
    def digest(self) -> str:
        """Changes whenever a byte does. With a manifest it equals the digest of a local folder with the same files.

        Hidden files are left out, as in a local folder.
        """
        shown = [name for name in self.names if not is_hidden(name)]
        if self.manifest is not None:
            return digest_of({name: self.manifest.files[name].sha256 for name in shown})
        return digest_of({name: [self.listed[name].size_bytes, self.listed[name].version] for name in shown})

    def transfers(self, folder: Path) -> list[Transfer]:
        """The transfers that copy the files into a folder."""
        if self.manifest is not None:
            files = self.manifest.files.items()
            return [Transfer(folder / name, name, entry.size_bytes, entry.sha256) for name, entry in files]
        return [
            Transfer(folder / name, name, info.size_bytes, version=info.version) for name, info in self.listed.items()
        ]


def is_hidden(name: str) -> bool:
    """Whether the name of a file or of a folder around it begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def find_tree(store: ObjectStore) -> RemoteTree:
    """The tree at the store's address; raises NotFoundError where there is none."""
    manifest = _manifest_of(store)
    listed = {} if manifest is not None else {info.key: info for info in store.list() if not is_hidden(info.key)}
    if manifest is None and not listed:
        raise NotFoundError(f"{store.address}: there is nothing at this address")
    return RemoteTree(store, manifest, listed)


def copy_down(tree: RemoteTree, folder: Path, progress: Progress | None = None) -> None:
    """Download the tree into a folder, as a whole or not at all; raises IntegrityError if it changed meanwhile."""
    with filling(folder, tree.digest) as made:
        fetch_missing(tree.store, tree.transfers(made), folder.name, progress)
        if tree.manifest is None and find_tree(tree.store).digest != tree.digest:
            raise IntegrityError(f"{tree.store.address}: changed while it was read; run the same command again")


def copy_up(
    folder: Path,
    store: ObjectStore,
    kind: str,
    progress: Progress | None = None,
    belongs: Callable[[str], bool] = lambda name: True,
) -> Manifest:
    """Copy a folder's files to the address, without hidden ones and those that do not belong, then the manifest.

    A second call for the same files completes an interrupted one and replaces damaged files. Raises BadInputError where
    another tree lies at the address, because others may be reading it.
    """
    manifest = describe(folder, kind, lambda name: belongs(name) and not is_hidden(name) and name != MANIFEST)
    found = _manifest_of(store)
    if found is None or found.files == manifest.files:
        _upload(folder, store, manifest, progress)
        store.write_if_absent(MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
        found = _manifest_of(store)
    if found is None or found.files != manifest.files:
        raise BadInputError(
            f"{store.address}: another tree lies there already, and readers may be using it; choose another address, "
            "or delete that one first"
        )
    return found


def _upload(folder: Path, store: ObjectStore, manifest: Manifest, progress: Progress | None) -> None:
    there = store.known(list(manifest.files))
    missing = [
        Transfer(folder / name, name, entry.size_bytes, entry.sha256)
        for name, entry in manifest.files.items()
        if not _is_same(folder / name, there.get(name))
    ]
    with moving(progress, f"uploading {folder.name}", missing) as moved:
        store.upload_all(missing, moved)


def _is_same(path: Path, info: ObjectInfo | None) -> bool:
    """Whether an object is known to hold a file's bytes; where the server's versions do not show it, upload again."""
    return info is not None and info.size_bytes == path.stat().st_size and info.version == part_etag(path)


def _manifest_of(store: ObjectStore) -> Manifest | None:
    try:
        return Manifest.model_validate_json(store.read(MANIFEST))
    except NotFoundError:
        return None
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise IntegrityError(f"{store.address}/{MANIFEST}: not a manifest of lorapar ({why})") from None
