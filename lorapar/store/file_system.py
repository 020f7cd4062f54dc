"""Replacements for what some file systems lack: locks, hard links, renaming over a file, mmap.

NFS, Lustre, FUSE mounts and network drives lack some of these. A line on standard error names what is missing, once for
each file system. `lacking` finds out beforehand, for `doctor` and `plan`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

logger = logging.getLogger(__name__)

UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.ENODEV, errno.EXDEV})
"""Errors of system calls whose operation the file system does not have."""
_MAY_MEAN_UNSUPPORTED = UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EMLINK}
_NO_RENAME = _MAY_MEAN_UNSUPPORTED | {errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY}
_TRY = ".lorapar-try-"
_REMOVED = (".nfs", ".fuse_hidden")
"""Names that NFS and FUSE give a file that was removed while open; it disappears when it is closed."""
_Answer = TypeVar("_Answer")
_within_process: dict[str, threading.Lock] = defaultdict(threading.Lock)
_warned: set[tuple[str, int]] = set()

_LOCKS = "locks", "two runs or commands in one folder there would not notice each other, so start one at a time"
_RENAMES = "renaming over a file", "who reads a file at the very moment it is replaced may miss it"
_LINKS = "hard links", "files are copied or renamed instead"
_TIMES = "setting a file's time", "files are rewritten instead"
_MMAP = "mmap", "weights are read into memory instead"
_ONE_CASE = "names that differ in capital letters alone", "give adapters and runs names that differ otherwise too"


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, whose folder exists; yields whether other processes are kept out.

    Where the file system has no locks, one line says so, and only the threads of this process exclude each other.
    Raises BlockingIOError where another process holds it and `wait` is False, and OSError where the disk fails.
    """
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            here = None
        except BlockingIOError:
            raise
        except OSError as error:  # whatever the error, except a failing disk: the work matters more than the lock
            if _disk_fails(path.parent, error):
                raise
            warn_once(path.parent, _LOCKS, error)
            here = _within_process[str(path.absolute())]
        if here is not None and not here.acquire(blocking=wait):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        try:
            yield here is None
        finally:
            if here is not None:
                here.release()


def replace_path(made: Path, final: Path) -> None:
    """Give a finished file or folder its name; replaces a file of that name, atomically where possible."""
    try:
        os.replace(made, final)
    except OSError as error:
        if error.errno not in _NO_RENAME or (final.is_dir() and not made.is_dir()):
            raise
        _replace_otherwise(made, final, error)


def _replace_otherwise(made: Path, final: Path, refused: OSError) -> None:
    try:
        if final.is_dir():
            shutil.rmtree(final)
        elif final.exists():
            final.unlink()
    except OSError:  # a folder without the right to write, rather than a file system that cannot rename
        raise refused from None
    if not made.is_dir():
        warn_once(final.parent, _RENAMES, refused)
    try:
        os.rename(made, final)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        if made.is_dir():
            copy_files(made, final)
            shutil.rmtree(made, ignore_errors=True)
        else:
            shutil.copyfile(made, final)
            made.unlink(missing_ok=True)


def copy_files(source: Path, target: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy the bytes of a folder's files except those in `left_out`; not every file system takes modes."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.name not in left_out:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def is_removed(name: str) -> bool:
    """Whether a file's name (without folders) shows that it is removed and only waits to be closed."""
    return name.startswith(_REMOVED)


def link_new(made: Path, final: Path) -> bool | None:
    """Give a finished file a second name; False if the name is taken, None where there are no hard links."""
    try:
        os.link(made, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _MAY_MEAN_UNSUPPORTED:
            raise
        return None
    return True


def make_young(path: Path) -> bool:
    """Set a file's time to now; False where that is not possible."""
    try:
        os.utime(path)
    except OSError as error:
        if error.errno not in _MAY_MEAN_UNSUPPORTED | {errno.EROFS}:
            raise
        return False
    return True


def again_if_stale(ask: Callable[[], _Answer]) -> _Answer:
    """Call `ask`, twice if needed: NFS reports a file as stale once where another machine replaced it."""
    try:
        return ask()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    return ask()


def sync(file: IO[bytes]) -> None:
    """Force a file's bytes to the disk, where the file system can."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL}:
            raise


def is_no_mmap(error: BaseException) -> bool:
    """Whether an error, of Python or of a library in another language, says that a file cannot be mapped."""
    if isinstance(error, OSError) and error.errno == errno.ENODEV:
        return True
    message = str(error).lower()
    return "mmap" in message or f"os error {errno.ENODEV}" in message


def has_record_locks(folder: Path) -> bool:
    """Whether files there can be locked by fcntl, as SQLite does; logged once where they cannot.

    Raises OSError where the disk fails.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_TRY) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if _disk_fails(folder, error):
                raise
            warn_no_locks(folder, error)
            return False
    return True


def _disk_fails(folder: Path, error: OSError) -> bool:
    """Whether an error of a lock is one of the disk: network clients say EIO, too, where their server has no locks.

    A failing disk does not take a byte either.
    """
    if error.errno != errno.EIO:
        return False
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_TRY) as file:
            file.write(b"x")
            sync(file.file)
    except OSError:
        return True
    return False


def warn_no_locks(folder: Path, error: BaseException) -> None:
    """Warn once that nothing keeps two runs out of one folder."""
    warn_once(folder, _LOCKS, error)


def warn_no_mmap(folder: Path, error: BaseException) -> None:
    """Warn once that weights are read into memory."""
    warn_once(folder, _MMAP, error)


def warn_once(folder: Path, what: tuple[str, str], error: BaseException) -> None:
    """Log what a folder's file system lacks, once for each file system in this process."""
    with suppress(OSError):
        key = (what[0], folder.stat().st_dev)
        if key in _warned:
            return
        _warned.add(key)
    logger.warning("lorapar: %s: its file system lacks %s (%s): %s", folder, what[0], _words(error), what[1])


def lacking(folder: Path) -> list[str]:
    """What the file system of a folder lacks, with the consequence of each, tried in a scratch folder there.

    For a folder that does not exist yet, its nearest parent is tried. Empty where nothing is lacking or this user may
    not write.
    """
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=_TRY, ignore_cleanup_errors=True) as room:
            return list(_tried(Path(room)))
    except OSError:
        return []


def _tried(room: Path) -> Iterator[str]:
    one, two = room / "one", room / "two"
    one.write_bytes(b"one")
    for what, attempt in (
        (_LOCKS, lambda: _lock(one)),
        (_LINKS, lambda: os.link(one, room / "link")),
        (_TIMES, lambda: os.utime(one)),
        (_MMAP, lambda: _map(one)),
        (_ONE_CASE, lambda: _distinguish(one)),
        (_RENAMES, lambda: _rename_over(one, two)),
    ):
        if error := _failure(attempt):
            yield f"{what[0]} ({_words(error)}): {what[1]}"


def _failure(attempt: Callable[[], Any]) -> OSError | None:
    try:
        attempt()
    except OSError as error:
        return error
    return None


def _lock(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _map(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        pass


def _distinguish(path: Path) -> None:
    if path.with_name(path.name.upper()).exists():
        raise FileExistsError(errno.EEXIST, "one name for both")


def _rename_over(one: Path, two: Path) -> None:
    two.write_bytes(b"two")
    os.replace(two, one)


def _words(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:120]
