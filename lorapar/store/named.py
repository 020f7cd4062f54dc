"""Folders and files that a person names to be written; what they hold already belongs to that person."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from lorapar.errors import BadInputError, StorageError
from lorapar.store.artifact import storage_errors, write_atomically

_OF_THE_FILE_SYSTEM = {"lost+found"}
"""Names in the root of a fresh volume."""


def refuse_other_content(folder: Path, complaint: str, ours: Callable[[Path], bool] = lambda folder: False) -> None:
    """Raise BadInputError with `complaint` where a folder holds names that `ours` does not accept as lorapar's."""
    if folder.is_dir() and any(path.name not in _OF_THE_FILE_SYSTEM for path in folder.iterdir()) and not ours(folder):
        raise BadInputError(complaint)


def write_named_file(path: Path, text: str) -> None:
    """Write a file that an option names; an ordinary file is written as a whole or not at all.

    Raises BadInputError where the path is a folder, StorageError where it cannot be written.
    """
    if path.is_dir():
        raise BadInputError(f"{path}: is a folder; name a file to write")
    with storage_errors(path):
        try:
            if path.exists() and not path.is_file():  # a terminal, a pipe
                path.write_text(text, encoding="utf-8")
            else:
                write_atomically(Path(os.path.realpath(path)), text)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there"
            ) from None
