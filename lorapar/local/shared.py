"""Finished stages shared through a store: a machine with equal settings, inputs and code takes what another one made.

finished/<stage>-<key>.json    how the outputs came about, and their manifests; written last
cas/<sha256>                   their bytes
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.addresses import parse_address
from lorapar.errors import IntegrityError, LoraparError
from lorapar.local.folder import StageRecord
from lorapar.progress import Progress
from lorapar.store import Manifest, NotFoundError, ObjectStore, fetch_tree, file_sha256, put_tree, read_manifest
from lorapar.store.file_system import locked
from lorapar.store.tree import CONTENT

ROOT = "finished"
_MAKING = ".lorapar-making-"
"""Begins like other files that are no objects: no listing shows them, and `lorapar gc` clears old ones away."""
_SHOWN_BYTES = 50_000_000
"""Copying less than this is not worth a bar, or a line in the log."""


class SharedStage(BaseModel):
    """One finished stage as it is in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    record: StageRecord
    outputs: dict[str, Manifest]


class SharedStages:
    """The finished stages in one store; with `anew` none is taken, and what is made takes their place."""

    def __init__(self, store: ObjectStore, *, anew: bool = False) -> None:
        self.store, self.anew = store, anew

    @contextmanager
    def alone(self, wanted: StageRecord, progress: Progress) -> Iterator[None]:
        """Where the store is a folder: no other run of this machine makes the same stage while the block lasts.

        A run that waited finds it finished then. In a bucket two runs that start together may both make it.
        """
        root = parse_address(self.store.address)
        if not isinstance(root, Path):
            yield
            return
        path = root / f"{_MAKING}{wanted.stage}-{wanted.key}"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path, wait=False))
            except BlockingIOError:
                progress.log("another run is making it; waiting for that one")
                stack.enter_context(locked(path))
            yield
            # Who waits for it holds the file itself, and finds the stage in the store.
            path.unlink(missing_ok=True)

    def keep(self, record: StageRecord, folder: Path, progress: Progress | None = None) -> None:
        """Put a finished stage and its output folders below `folder` into the store, where it is not there yet."""
        if not self.anew and self.store.exists(_key(record)):
            return
        outputs = {}
        for name in record.outputs:
            shown = progress if _size(read_manifest(folder / name)) >= _SHOWN_BYTES else None
            outputs[name] = put_tree(self.store, folder / name, shown)
        self.store.write(_key(record), SharedStage(record=record, outputs=outputs).model_dump_json(indent=2).encode())

    def try_keep(self, record: StageRecord, folder: Path, progress: Progress) -> bool:
        """As `keep`; a store that fails is said and not fatal, for the stage's outputs are safe on this machine."""
        try:
            self.keep(record, folder, progress)
        except LoraparError as error:
            progress.log(f"not in the store yet: {error}")
            return False
        return True

    def take(self, wanted: StageRecord, folder: Path, progress: Progress) -> StageRecord | None:
        """Put the outputs of a stage with the same key below `folder`; None where the store has none to be taken.

        Raises UnreachableError where the store does not answer.
        """
        try:
            shared = None if self.anew else self._read(wanted)
            if shared is None:
                return None
            for name, manifest in shared.outputs.items():
                fetch_tree(self.store, manifest, folder / name, progress if _size(manifest) >= _SHOWN_BYTES else None)
        except (IntegrityError, NotFoundError) as error:
            progress.log(f"not taken from the store: {error}")
            self._remove_damaged(wanted)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        # Nodes of one stage may have equal keys, and the record names the node.
        return shared.record.model_copy(update={"node": wanted.node})

    def _remove_damaged(self, wanted: StageRecord) -> None:
        """Make room for what the stage will now make again: the record, and the contents that are not as named."""
        try:
            shared = self._read(wanted)
        except IntegrityError:
            shared = None
        self.store.delete(_key(wanted))
        entries = [entry for manifest in shared.outputs.values() for entry in manifest.files.values()] if shared else []
        with tempfile.TemporaryDirectory() as room:
            for entry in entries:
                key = f"{CONTENT}/{entry.sha256}"
                if self.store.exists(key):
                    self.store.download(key, Path(room) / "content")
                    if file_sha256(Path(room) / "content") != entry.sha256:
                        self.store.delete(key)

    def _read(self, wanted: StageRecord) -> SharedStage | None:
        key = _key(wanted)
        try:
            data = self.store.read(key)
        except NotFoundError:
            return None
        where = f"{self.store.address}/{key}"
        try:
            shared = SharedStage.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(f"{where}: not the record of a stage ({error.errors()[0]['msg']})") from None
        digests = {name: manifest.digest for name, manifest in shared.outputs.items()}
        if shared.record.key != wanted.key or digests != shared.record.outputs:
            raise IntegrityError(f"{where}: is not the record of the outputs it names")
        return shared


def _size(manifest: Manifest) -> int:
    return sum(entry.size_bytes for entry in manifest.files.values())


def _key(record: StageRecord) -> str:
    return f"{ROOT}/{record.stage}-{record.key}.json"
