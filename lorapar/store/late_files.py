"""Files that another machine has written and that show up here a little later.

NFS and its like remember what was not there. Opening the folder makes them ask their server again (close-to-open
consistency).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_SHARED = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs"),
    *("smb3", "smbfs", "virtiofs", "wekafs"),
)
"""Types of file systems that several machines may write to, as Linux calls them; those of FUSE may be shared, too."""
_OF_ONE_DISK = "fuseblk"
"""FUSE on a disk of this machine, such as NTFS."""
_MOUNTS = Path("/proc/self/mountinfo")
PAUSES_SECONDS = (0.1, 0.4, 1.5, 3.0)
"""Between looks at a file that must be there."""
_Answer = TypeVar("_Answer")


def once_visible(path: Path, ask: Callable[[], _Answer], pauses: Sequence[float] = PAUSES_SECONDS) -> _Answer:
    """What a question about a file answers, asked again where another machine may have written the file just now.

    Without `pauses` once, at no cost in time: for a file that need not be there. Raises what the last question raises.
    """
    try:
        return ask()
    except FileNotFoundError:
        if not is_shared(path.parent):
            raise
    for pause in (0.0, *pauses):
        time.sleep(pause)
        with suppress(OSError):
            os.scandir(path.parent).close()
        with suppress(FileNotFoundError):
            return ask()
    return ask()


def is_shared(folder: Path) -> bool:
    """Whether other machines may write to the file system of a folder; False where nothing says so."""
    try:
        lines = [line.split() for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
        place = folder.resolve()
    except (OSError, RuntimeError):
        return False
    # Of the mounts above the folder the deepest one, and of those at one place the last, holds it.
    kinds = [
        (len(Path(_unescaped(fields[4])).parts), number, fields[fields.index("-") + 1])
        for number, fields in enumerate(lines)
        if "-" in fields and place.is_relative_to(_unescaped(fields[4]))
    ]
    kind = max(kinds)[2] if kinds else ""
    return kind in _SHARED or (kind.startswith("fuse") and kind != _OF_ONE_DISK and "overlay" not in kind)


def _unescaped(place: str) -> str:
    """A path of that file, which writes blanks and their like in octal."""
    return place.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
