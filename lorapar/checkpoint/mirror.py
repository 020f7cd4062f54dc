"""A keeper that copies the scratch folder into the store while the stage goes on, and restores it from there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorapar.checkpoint.generations import Generations
from lorapar.checkpoint.keeper import Keeper
from lorapar.config import CheckpointConfig
from lorapar.errors import IntegrityError, LoraparError
from lorapar.progress import Progress
from lorapar.store import (
    MANIFEST,
    FileEntry,
    Manifest,
    NotFoundError,
    ObjectStore,
    file_sha256,
    read_manifest,
    write_atomically,
)
from lorapar.store.file_system import link_new, replace_path

# In the scratch folder, which may be a mounted volume with nothing beside it; hidden files are not copied.
_NUMBER = ".kept"
"""The number of the copy the folder was made from or last copied to."""
_FETCHING, _KEEPING = ".fetching", ".keeping"
"""A copy on its way from the store, and the files as they were when the one on its way to it was begun."""


class StoreKeeper(Keeper):
    """Copies of the scratch folder go to the store in the background, one at a time.

    A machine may be gone within a second, and then only what is in the store counts. So a copy is begun so early that
    it is there when an interval has passed since the state that the copy before it holds.
    """

    def __init__(self, generations: Generations, scratch: Path, config: CheckpointConfig, progress: Progress) -> None:
        """Mirror `scratch`, a folder that exists; `restore` first takes up what an earlier call left in the store."""
        super().__init__(config)
        self._generations = generations
        self._scratch = scratch
        self._progress = progress
        self._number = 0
        self._upload: threading.Thread | None = None
        self._ending = False
        self._copy_seconds = config.interval_seconds / 2
        """What the last copy took until it was in the store; before there is one, the most that keeps the promise."""

    def due(self) -> bool:
        """Not while the last copy is still on its way: a slow store must not pile up work."""
        on_its_way = self._upload is not None and self._upload.is_alive()
        return not on_its_way and time.monotonic() - self._last >= self.config.interval_seconds - self._copy_seconds

    def keep(self) -> None:
        """Note the files as they are now, and copy them while the stage goes on."""
        self.settle()
        super().keep()
        snapshot = self._snapshot()
        self._upload = threading.Thread(target=self._copy, args=(snapshot,), name="checkpoint", daemon=True)
        self._upload.start()

    def settle(self) -> None:
        """Wait for the copy under way."""
        if self._upload is not None:
            self._upload.join()
            self._upload = None

    def end(self) -> None:
        """Copy the last state, as soon as the copy under way is in the store: old copies are left for the next call.

        Nothing is copied of a stage that had not begun: the next call would say that it goes on.
        """
        self._ending = True
        if _visible(self._scratch):
            self.keep()

    def forget(self) -> None:
        """Remove the copies; one that cannot be removed does no harm, a later run with the same key removes it."""
        self.settle()
        forget(self._generations, self._progress)

    def restore(self) -> None:
        """Bring the scratch folder to the newest sound copy, unless what is there is as new or was made without one.

        A copy that is damaged or incomplete is named, and the one before it is taken.
        """
        if (self._scratch / _FETCHING).exists():
            _clear(self._scratch)  # an earlier call was killed here, and what is there is a part of a copy
        self._number = local = _number_in(self._scratch)
        numbers = self._generations.numbers()
        self._number = max([local, *numbers])
        empty = not _visible(self._scratch)
        for number in numbers:
            if not (empty or (local and number > local)):
                return
            if self._fetched(number):
                self._progress.log(f"going on from checkpoint {number} in {self._generations.address}")
                return

    def _fetched(self, number: int) -> bool:
        made = self._scratch / _FETCHING
        try:
            self._generations.fetch(number, made)
        except (IntegrityError, NotFoundError) as error:
            shutil.rmtree(made, ignore_errors=True)
            self._progress.log(f"checkpoint {number} is not used: {error}")
            return False
        for path in _visible(self._scratch):
            _remove(path)
        for path in made.iterdir():
            replace_path(path, self._scratch / path.name)
        write_atomically(self._scratch / _NUMBER, str(number))
        made.rmdir()
        return True

    def _snapshot(self) -> Path:
        """The files as they are at this moment."""
        snapshot = self._scratch / _KEEPING
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir()
        for top in _visible(self._scratch):
            for path in [top, *top.rglob("*")]:
                if path.is_file():
                    _take(path, snapshot / path.relative_to(self._scratch))
        return snapshot

    def _copy(self, snapshot: Path) -> None:
        begun = time.monotonic()
        try:
            self._number = self._generations.write(self._number + 1, _manifest(snapshot), snapshot)
            self._copy_seconds = time.monotonic() - begun
            write_atomically(self._scratch / _NUMBER, str(self._number))
            if not self._ending:
                self._generations.prune(self.config.keep, hurried=lambda: self._ending)
        except (LoraparError, OSError) as error:
            # What was computed is on this machine's disk; ending the stage because of its copy would lose more.
            self._progress.log(f"no checkpoint in {self._generations.address}: {error}; the work goes on")
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)


def forget(generations: Generations, progress: Progress) -> None:
    """Remove the copies of a stage that is finished; one that cannot be removed does no harm and is said."""
    try:
        generations.forget()
    except LoraparError as error:
        progress.log(f"the checkpoints of the finished stage could not be removed: {error}")


@contextmanager
def kept(
    store: ObjectStore | None, name: str, scratch: Path, config: CheckpointConfig, progress: Progress
) -> Iterator[Keeper]:
    """A keeper for one call of a stage: restored before the block, and up to date after it where the block fails.

    After success the caller puts the outputs where they belong and then calls `forget`.

    Args:
        store: where copies go; None keeps unfinished work in the scratch folder only.
        name: `<stage>-<key>`, key being the digest of everything the outputs depend on.
        scratch: the stage's scratch folder, which exists.
        config: how often, how many.
        progress: told what is restored and what could not be copied.
    """
    if store is None:
        yield Keeper(config)
        return
    keeper = StoreKeeper(Generations(store, name), scratch, config, progress)
    keeper.restore()
    try:
        yield keeper
    except BaseException:
        try:
            keeper.end()
        except OSError as error:  # a full disk, say: what ended the stage matters more
            progress.log(f"no last checkpoint: {error}")
        raise
    finally:
        keeper.settle()


def _number_in(scratch: Path) -> int:
    try:
        return int((scratch / _NUMBER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0


def _manifest(snapshot: Path) -> Manifest:
    """Names and digests of all files; those of a folder that was sealed are read from its manifest, not taken again."""
    files: dict[str, FileEntry] = {}
    for path in snapshot.rglob(MANIFEST):
        folder = path.parent.relative_to(snapshot)
        files |= {(folder / name).as_posix(): entry for name, entry in read_manifest(path.parent).files.items()}
    for path in snapshot.rglob("*"):
        name = path.relative_to(snapshot).as_posix()
        if path.is_file() and name not in files:
            files[name] = FileEntry(size_bytes=path.stat().st_size, sha256=file_sha256(path))
    return Manifest(kind="checkpoint", files=dict(sorted(files.items())))


def _visible(scratch: Path) -> list[Path]:
    """What the stage has put there, as against what is this module's."""
    return sorted(path for path in scratch.iterdir() if not path.name.startswith("."))


def _clear(scratch: Path) -> None:
    for path in scratch.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _take(path: Path, copy: Path) -> None:
    """Tensor files are replaced and never written into, so a second name for the same bytes will do for them."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".safetensors" or link_new(path, copy) is None:
        shutil.copyfile(path, copy)
