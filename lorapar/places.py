"""Where the cache is, and where it goes if the home folder cannot be written.

A container may run as a user that a platform gave out, on a read-only root: its home is `/`, or belongs to another.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from lorapar.errors import StorageError

VARIABLE = "LORAPAR_CACHE"
_OTHERS = {"XDG_CACHE_HOME": "", "TRITON_HOME": "triton"}
"""What other libraries read before they take the home folder, the hub's among them; and the folder each gets."""


def cache_folder() -> Path:
    """`$LORAPAR_CACHE`, else `~/.cache/lorapar`, else a folder of this user among the temporary ones.

    Raises StorageError where the last one belongs to somebody else.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    home = _home_cache()
    return home / "lorapar" if home is not None else _temporary()


def settle_caches() -> None:
    """At the start of a process: where nothing can be kept in the home folder, say so, and tell other libraries too."""
    if os.environ.get(VARIABLE) or _home_cache() is not None:
        return
    folder = _temporary()
    os.environ[VARIABLE] = str(folder)
    for name, below in _OTHERS.items():
        os.environ.setdefault(name, str(folder / below) if below else str(folder))
    print(
        f"lorapar: the home folder cannot be written, so caches are kept in {folder}; set {VARIABLE} and HF_HOME to "
        "folders that last",
        file=sys.stderr,
    )


def _home_cache() -> Path | None:
    """`~/.cache`, where lorapar's folder is there already or can be made."""
    try:
        cache = Path.home() / ".cache"
    except RuntimeError:  # a number without a name, and no HOME
        return None
    nearest = cache / "lorapar"
    if nearest.exists():
        return cache
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    return cache if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else None


def _temporary() -> Path:
    """A folder that nobody else may write: what is in it is loaded."""
    folder = Path(tempfile.gettempdir()) / f"lorapar-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror}); set {VARIABLE} to another folder") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(f"{folder}: others may write there; set {VARIABLE} to a folder that is yours alone")
    return folder
