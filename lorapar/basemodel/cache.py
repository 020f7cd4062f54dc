"""The folder in which models that had to be made or converted are kept between runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lorapar.errors import StorageError
from lorapar.places import cache_folder
from lorapar.store import storage_errors
from lorapar.store.file_system import locked, replace_path


def cache_root() -> Path:
    """`$LORAPAR_CACHE`, else `~/.cache/lorapar`; see `lorapar.places.cache_folder`."""
    return cache_folder()


def cached_folder(name: str, make: Callable[[Path], None], below: Path | None = None) -> Path:
    """The folder `name` of the cache; where it is missing, `make` fills a scratch folder that then takes its place.

    It lies among the models, or in `below`.

    Of several processes that ask at once, one makes it and the others wait; an interrupted one leaves nothing behind
    that could be taken for a finished folder. Raises StorageError where the cache cannot be written.
    """
    final = (below or cache_root() / "models") / name
    if final.is_dir():
        return final
    with storage_errors(final):
        _make_parent(final)
        with locked(final.with_name(f".{name}.lock")):
            if not final.is_dir():
                _make(final, make)
    return final


def _make_parent(final: Path) -> None:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"{cache_root()}: is not a folder; set LORAPAR_CACHE to one that can be written") from None


def _make(final: Path, make: Callable[[Path], None]) -> None:
    for left in final.parent.glob(f".{final.name}.*/"):  # by a process that was killed: the lock is ours now
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        make(made)
        replace_path(made, final)
