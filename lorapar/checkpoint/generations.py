"""Copies of one scratch folder in the store, the newest of which a new machine goes on from.

checkpoints/<stage>-<key>/00000007.json      names, sizes and digests of the seventh copy's files; written last
checkpoints/<stage>-<key>/files/<sha256>     their bytes; what has not changed between two copies is there once

A copy without its JSON file is not finished and never read. `key` is the digest of the stage's settings, inputs and
code, so a pod that is started again finds it, and so does another run with the same settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from lorapar.errors import IntegrityError
from lorapar.store import Manifest, NotFoundError, ObjectStore
from lorapar.store.base import Transfer

ROOT = "checkpoints"


class Generations:
    """The copies of one stage's scratch folder."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """Of the stage call `name`, which is `<stage>-<key>`; nothing is contacted yet."""
        self._store = store
        self._prefix = f"{ROOT}/{name}"
        self._uploaded: set[str] = set()
        self._manifests: dict[int, Manifest] = {}
        """Of copies that this process has made: what has a number never changes, and a slow store need not be asked."""

    @property
    def address(self) -> str:
        """Where the copies are, as a person would write it."""
        return f"{self._store.address}/{self._prefix}"

    def numbers(self) -> list[int]:
        """Numbers of the finished copies, the newest first."""
        keys = (entry.key.removeprefix(f"{self._prefix}/") for entry in self._store.list(f"{self._prefix}/"))
        return sorted((int(key[:-5]) for key in keys if key.endswith(".json") and key[:-5].isdigit()), reverse=True)

    def write(self, number: int, manifest: Manifest, folder: Path) -> int:
        """Copy a folder's files, then its manifest; returns its number, a later one where somebody else took it."""
        missing = {
            entry.sha256: Transfer(folder / name, self._file(entry.sha256), entry.size_bytes)
            for name, entry in manifest.files.items()
            if entry.sha256 not in self._uploaded
        }
        self._store.upload_all(missing.values())
        self._uploaded |= set(missing)
        data = manifest.model_dump_json(indent=2).encode()
        while not self._store.write_if_absent(self._manifest(number), data):
            number += 1
        self._manifests[number] = manifest
        return number

    def read(self, number: int) -> Manifest:
        """What a copy holds; raises NotFoundError or IntegrityError."""
        data = self._store.read(self._manifest(number))
        try:
            return Manifest.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"{self.address}/{number:08d}.json: not a manifest ({error.errors()[0]['msg']})"
            ) from None

    def fetch(self, number: int, folder: Path) -> None:
        """Put a copy's files into a new folder, verified; raises NotFoundError or IntegrityError naming the file."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        manifest = self.read(number)
        self._store.download_all(
            Transfer(folder / name, self._file(entry.sha256), entry.size_bytes, entry.sha256)
            for name, entry in manifest.files.items()
        )
        self._uploaded = {entry.sha256 for entry in manifest.files.values()}

    def prune(self, keep: int, hurried: Callable[[], bool] = lambda: False) -> None:
        """Remove all but the newest copies, and the files that only the removed ones had.

        Stops half-way once `hurried` says that something waits for it; `forget` removes what is left over then.
        """
        numbers = self.numbers()
        kept = self._digests(numbers[:keep])
        gone = self._digests(numbers[keep:]) - kept
        if hurried():
            return
        # Manifests first, so that nobody begins to read what is going.
        self._store.delete_all([self._manifest(number) for number in numbers[keep:]])
        for number in numbers[keep:]:
            self._manifests.pop(number, None)
        if hurried():
            return
        self._store.delete_all([self._file(digest) for digest in sorted(gone)])
        self._uploaded &= kept

    def forget(self) -> None:
        """Remove everything."""
        keys = [entry.key for entry in self._store.list(f"{self._prefix}/")]
        self._store.delete_all([key for key in keys if key.endswith(".json")])
        self._store.delete_all([key for key in keys if not key.endswith(".json")])
        self._uploaded.clear()

    def _digests(self, numbers: list[int]) -> set[str]:
        return {entry.sha256 for manifest in self._readable(numbers) for entry in manifest.files.values()}

    def _readable(self, numbers: list[int]) -> Iterator[Manifest]:
        for number in numbers:
            try:
                yield self._manifests.get(number) or self.read(number)
            except (NotFoundError, IntegrityError):
                continue

    def _manifest(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.json"

    def _file(self, sha256: str) -> str:
        return f"{self._prefix}/files/{sha256}"
