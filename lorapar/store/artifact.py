"""Artifacts on disk: a folder with a manifest of sizes and digests, written last and verified by every reader.

A folder without a manifest is unfinished and never read; a folder whose bytes differ from its manifest is refused.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lorapar.errors import IntegrityError, StorageError
from lorapar.records import digest_of
from lorapar.store.file_system import UNSUPPORTED, again_if_stale, is_removed, replace_path

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20


class FileEntry(BaseModel):
    """Size and content of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """The contents of an artifact; the manifest's digest is the artifact's digest."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    kind: str
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        """Check that no name leads out of the folder, because a manifest may come from elsewhere."""
        for name in files:
            if not name or name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise ValueError(f"'{name}' is not the name of a file in the folder")
        return files

    @property
    def digest(self) -> str:
        """sha256 over kind and contents: equal bytes under equal names have equal digests."""
        return digest_of(self.model_dump(mode="json"))


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def seal(folder: Path, kind: str) -> Manifest:
    """Write the manifest of a finished folder, atomically and last; returns it."""
    manifest = describe(folder, kind, lambda name: name != MANIFEST)
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def describe(folder: Path, kind: str, belongs: Callable[[str], bool]) -> Manifest:
    """The manifest of a folder's present files whose relative names `belongs` accepts; writes nothing."""
    named = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file())
    files = {
        name: FileEntry(size_bytes=path.stat().st_size, sha256=file_sha256(path))
        for name, path in named
        if belongs(name) and not is_removed(path.name)
    }
    return Manifest(kind=kind, files=files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact, not yet compared with its files; raises IntegrityError if it is missing."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())  # bytes that are not UTF-8 also raise ValidationError
    except FileNotFoundError:
        raise IntegrityError(f"{folder}: no {MANIFEST}, so it is missing or unfinished; run its stage again") from None
    except ValidationError as error:
        raise IntegrityError(f"{path}: not a manifest ({error.errors()[0]['msg']}); run its stage again") from None


def verify(folder: Path) -> Manifest:
    """The manifest, after comparing every file's size and sha256; raises IntegrityError naming the file."""
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{path}: named in the manifest but missing; run its stage again")
        if path.stat().st_size != entry.size_bytes or file_sha256(path) != entry.sha256:
            raise IntegrityError(f"{path}: its bytes are not those the manifest names; run its stage again")
    return manifest


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new version, never half of one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        replace_path(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raises StorageError naming the one that cannot be made."""
    try:
        again_if_stale(lambda: path.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        where = error.filename or path
        raise StorageError(f"{where}: cannot be made ({error.strerror}); choose another folder") from None


def make_writable_folder(path: Path) -> None:
    """Like `make_folder`; also raises StorageError where this user may not write into the folder."""
    make_folder(path)
    if not os.access(path, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise StorageError(f"{path}: cannot be written ({os.strerror(number)}); choose another folder")


def replace_folder(made: Path, final: Path) -> None:
    """Move a finished folder to its place; the earlier folder is removed only once the new one is complete."""
    final.parent.mkdir(parents=True, exist_ok=True)
    gone = f".{final.name}.old"
    for old in (final.with_name(gone), *final.parent.glob(f"{glob.escape(gone)}-{'[0-9a-f]' * 32}")):
        shutil.rmtree(old, ignore_errors=True)
    old = final.with_name(gone)
    if old.exists():  # on NFS it stays while somebody has a file in it open
        old = final.with_name(f"{gone}-{uuid.uuid4().hex}")
    if final.exists():
        replace_path(final, old)
    replace_path(made, final)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into a one-line StorageError that names the place."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FORBIDDEN:
            raise StorageError(f"{error.filename or where}: cannot be written ({error.strerror})") from error
        if isinstance(error, OSError) and error.errno in (*UNSUPPORTED, errno.ESTALE):
            raise StorageError(
                f"{error.filename or where}: its file system cannot do what is needed ({error.strerror}); choose a "
                "folder on another one"
            ) from error
        if refused := refused_by_system(error, where):
            raise refused from error
        raise


def refused_by_system(error: Exception, where: Path | None = None) -> StorageError | None:
    """The message for an error of the system that is no bug, such as a full disk or a long name; else None.

    `where` is the path to be written, used where the error does not name one.
    """
    named = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    if full := _means_full(error):
        place = where or Path(os.fsdecode(named) if isinstance(named, str | bytes) else ".")
        if _lacks_inodes(place):
            full = "its file system has room, but takes no more files (df -i)"
        return StorageError(f"{place}: {full}; free some room and run again, it continues")
    if not isinstance(error, OSError):
        return None
    if error.errno in _OF_THE_SYSTEM:
        cause = f"{error.strerror}: {_OF_THE_SYSTEM[error.errno]}"
    elif error.errno in (errno.EACCES, errno.EROFS) and named:
        cause = f"cannot be read or written ({error.strerror})"
    else:
        return None
    shown = str(named or where or "")
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
    return StorageError(f"{shown}: {cause}" if shown else cause)


_SHOWN_CHARACTERS = 120

_OF_THE_SYSTEM = {
    errno.EIO: "the disk or mount failed; look at the system's log, then run again, it continues",
    errno.EFBIG: "its file system or a limit (ulimit -f) takes no file of that size; choose a folder on another one",
    errno.ENAMETOOLONG: "its file system takes no name of that length (encrypted folders take 143 bytes); shorten the "
    "name, or choose a folder on another one",
    errno.EMFILE: "this process has too many files open; raise ulimit -n",
    errno.ENFILE: "this machine has too many files open",
    errno.ETXTBSY: "another process holds the file; end it and run again, it continues",
    errno.EBUSY: "another process holds it, or it is a mount; end it and run again, it continues",
    errno.ELOOP: "symbolic links lead in a circle; fix them",
}


# Not writable, or a file where a folder should be.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of this user or folder is used up"}


def _means_full(error: Exception) -> str:
    """What is full, or nothing. Libraries in Rust or C++ (safetensors) report it as a text of the system, not as an
    OSError.
    """
    number = error.errno if isinstance(error, OSError) else None
    found = (text for code, text in _FULL.items() if number == code or os.strerror(code) in str(error))
    return next(found, "")


_FEW_FILES = 20
"""A file written in one go may be removed again by the time the file system is asked."""


def _lacks_inodes(where: Path) -> bool:
    """Whether the file system of a path (or its nearest parent) has room for bytes but not for files."""
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        found = os.statvfs(where)
    except OSError:
        return False
    return bool(found.f_files) and found.f_favail < _FEW_FILES and found.f_bavail * found.f_frsize > 1 << 20
