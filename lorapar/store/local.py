"""Storage in a local folder, with the same promises as a bucket."""

from __future__ import annotations

import errno
import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorapar.addresses import check_key
from lorapar.errors import IntegrityError, StorageError
from lorapar.store.artifact import make_folder, storage_errors
from lorapar.store.base import LOCAL, Moved, NotFoundError, ObjectInfo, Transfer
from lorapar.store.file_system import again_if_stale, is_removed, link_new, locked, make_young, replace_path
from lorapar.store.late_files import once_visible

_HIDDEN = ".lorapar-"
_LOCK = f"{_HIDDEN}lock"
_CHUNK_BYTES = 1 << 20
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


class LocalStore:
    """An ObjectStore whose keys are files below `root`; works for several processes of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def endpoint(self) -> str:
        """No server."""
        return LOCAL

    def read(self, key: str) -> bytes:
        """The bytes of a file."""
        with self._reading(key):
            path = self._path(key)
            return once_visible(path, lambda: again_if_stale(path.read_bytes), pauses=())

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and their sha256."""
        data = self.read(key)
        return data, _version(data)

    def write(self, key: str, data: bytes) -> None:
        """Write a file next to it, then rename that."""
        with self._written(key, data) as scratch, self._locked():
            replace_path(scratch, self._path(key))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Hard-link the new file to its name; the link fails if the name is taken."""
        with self._written(key, data) as scratch:
            made = link_new(scratch, self._path(key))
            return self._make_unlinked(scratch, self._path(key)) if made is None else made

    def _make_unlinked(self, scratch: Path, path: Path) -> bool:
        """The same without hard links. If the file system has no locks either, a reader may see part of a new file."""
        with self._locked() as alone:
            if path.exists():
                return False
            if alone:
                replace_path(scratch, path)
                return True
            try:
                with path.open("xb") as file:
                    file.write(scratch.read_bytes())
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
            replace_path(scratch, self._path(key))
        return True

    def upload(self, path: Path, key: str) -> None:
        """Copy to a file next to it, then rename that."""
        self.upload_all([Transfer(path, key, path.stat().st_size)])

    def upload_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy one after the other: parallel copies are no faster on a disk."""
        for transfer in transfers:
            with self._scratch(transfer.key) as scratch:
                _copy(transfer.path, scratch, transfer, moved)
                replace_path(scratch, self._path(transfer.key))

    def upload_in_parts(self, transfer: Transfer) -> None:
        """Upload as usual: a disk has no parts."""
        self.upload_all([transfer])

    def download(self, key: str, path: Path) -> None:
        """Copy the file."""
        with self._reading(key):
            source = self._path(key)
            size = once_visible(source, source.stat).st_size
        self.download_all([Transfer(path, key, size)])

    def download_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy one after the other, each to a scratch file that is renamed once it is complete."""
        for transfer in transfers:
            source = self._path(transfer.key)
            scratch = transfer.path.with_name(f"{_HIDDEN}{uuid.uuid4().hex}")
            with storage_errors(transfer.path):
                transfer.path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with self._reading(transfer.key):
                        once_visible(source, source.stat)
                        if transfer.version not in (None, _info(transfer.key, source).version):
                            raise IntegrityError(f"{self.root}/{transfer.key}: was replaced meanwhile; try again")
                        _copy(source, scratch, transfer, moved)
                    replace_path(scratch, transfer.path)
                finally:
                    scratch.unlink(missing_ok=True)

    def known(self, keys: Sequence[str]) -> dict[str, ObjectInfo]:
        """Look at each file."""
        found = {}
        for key in keys:
            try:
                found[key] = _info(key, self._path(key))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def exists(self, key: str) -> bool:
        """Whether the file exists."""
        return again_if_stale(self._path(key).is_file)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Files whose relative path begins with `prefix`; reads only folders that can hold such files."""
        folder = self.root / prefix.rpartition("/")[0]
        with self._reading(prefix):
            names = again_if_stale(lambda: sorted(path.relative_to(self.root).as_posix() for path in folder.rglob("*")))
        for key in names:
            path = self.root / key
            if not key.startswith(prefix) or path.name.startswith(_HIDDEN) or is_removed(path.name):
                continue
            try:
                with self._reading(key):
                    if again_if_stale(path.is_file):
                        yield _info(key, path)
            except NotFoundError:  # deleted since the folder was read
                continue

    def renew(self, key: str) -> None:
        """Set the file's time, or write the file again."""
        with self._reading(key):
            if not make_young(self._path(key)):
                self.upload(self._path(key), key)

    def delete(self, key: str) -> None:
        """Remove the file."""
        if again_if_stale(self.root.is_dir):
            with storage_errors(self.root), self._locked():
                self._path(key).unlink(missing_ok=True)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove the files."""
        for key in keys:
            self.delete(key)

    def unfinished(self, older_than: float) -> int:
        """Scratch files of processes that were killed."""
        return sum(1 for _ in self._leftovers(older_than))

    def abort_unfinished(self, older_than: float) -> None:
        """Remove scratch files."""
        for path in list(self._leftovers(older_than)):
            path.unlink(missing_ok=True)

    def _leftovers(self, older_than: float) -> Iterator[Path]:
        for path in self.root.rglob(f"{_HIDDEN}*"):
            if path.name != _LOCK and path.is_file() and path.stat().st_mtime < older_than:
                yield path

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"{self.root}/{key}: there is no such object") from None
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise StorageError(f"{error.filename or self.root / key}: cannot be read ({error.strerror})") from error

    @contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        scratch = path.with_name(f"{_HIDDEN}{uuid.uuid4().hex}")
        with storage_errors(path):
            make_folder(path.parent)
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
    def _locked(self) -> Iterator[bool]:
        with locked(self.root / _LOCK) as alone:
            yield alone


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _info(key: str, path: Path) -> ObjectInfo:
    stat = again_if_stale(path.stat)
    return ObjectInfo(key, stat.st_size, stat.st_mtime, f"{stat.st_size}-{stat.st_mtime_ns}")


def _copy(source: Path, target: Path, transfer: Transfer, moved: Moved | None) -> None:
    """Copy bytes and compare them with the expected digest."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            if moved is not None:
                moved(len(chunk))
    if transfer.sha256 is not None and digest.hexdigest() != transfer.sha256:
        raise IntegrityError(f"{source}: its bytes are not those that were recorded (sha256 {transfer.sha256[:12]}…)")
