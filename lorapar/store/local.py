"""Storage in a local folder, with the same promises as a bucket."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorapar.store.address import check_key
from lorapar.store.artifact import storage_errors
from lorapar.store.base import NotFoundError, ObjectInfo

_HIDDEN = ".lorapar-"


class LocalStore:
    """An ObjectStore whose keys are files below `root`; works for several processes of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, key: str) -> bytes:
        """The bytes of a file."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"{self.root}/{key}: there is no such object") from None

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and their sha256."""
        data = self.read(key)
        return data, _version(data)

    def write(self, key: str, data: bytes) -> None:
        """Write beside it, then rename."""
        with self._written(key, data) as scratch:
            os.replace(scratch, self._path(key))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Hard-link the new file to its name, which fails where the name is taken."""
        with self._written(key, data) as scratch:
            try:
                os.link(scratch, self._path(key))
            except FileExistsError:
                return False
        return True

    def write_if_unchanged(self, key: str, data: bytes, version: str) -> bool:
        """Compare and replace under a lock that all processes of this machine share."""
        with self._written(key, data) as scratch, self._locked():
            try:
                if self.read_versioned(key)[1] != version:
                    return False
            except NotFoundError:
                return False
            os.replace(scratch, self._path(key))
        return True

    def upload(self, path: Path, key: str) -> None:
        """Copy beside it, then rename."""
        with self._scratch(key) as scratch:
            shutil.copyfile(path, scratch)
            os.replace(scratch, self._path(key))

    def download(self, key: str, path: Path) -> None:
        """Copy the file."""
        with storage_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._path(key), path)
            except FileNotFoundError:
                raise NotFoundError(f"{self.root}/{key}: there is no such object") from None

    def exists(self, key: str) -> bool:
        """Whether the file is there."""
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Files below the root whose relative path begins with `prefix`."""
        found = []
        for path in self.root.rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if path.is_file() and key.startswith(prefix) and not path.name.startswith(_HIDDEN):
                found.append((key, path))
        for key, path in sorted(found):
            stat = path.stat()
            yield ObjectInfo(key, stat.st_size, stat.st_mtime)

    def delete(self, key: str) -> None:
        """Remove the file."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        scratch = path.with_name(f"{_HIDDEN}{uuid.uuid4().hex}")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield scratch
            finally:
                scratch.unlink(missing_ok=True)

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[Path]:
        with self._scratch(key) as scratch:
            scratch.write_bytes(data)
            yield scratch

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / f"{_HIDDEN}lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
