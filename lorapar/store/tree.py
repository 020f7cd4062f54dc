"""Whole folders in the store: bytes by content under `cas/<sha256>`, and a small manifest that is written last."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lorapar.errors import IntegrityError
from lorapar.progress import Progress, Silent
from lorapar.store.artifact import MANIFEST, Manifest, file_sha256, read_manifest, replace_folder, storage_errors
from lorapar.store.base import DeniedError, Moved, NotFoundError, ObjectInfo, ObjectStore, Transfer, UnsupportedError
from lorapar.store.file_system import locked

CONTENT = "cas"
RENEW_AFTER_SECONDS = 6 * 3600.0
"""The time of content older than this is renewed where a new tree uses it: `gc` removes only old content."""
_RENEWED_AT_ONCE = 10
_TENSORS = ".safetensors"
_MB = 1e6


def content_key(sha256: str) -> str:
    """The key under which bytes are stored."""
    return f"{CONTENT}/{sha256}"


def put_tree(
    store: ObjectStore, folder: Path, progress: Progress | None = None, manifest: Manifest | None = None
) -> Manifest:
    """Upload the files of a sealed folder that the store lacks; returns its manifest.

    With `manifest`, as `describe` makes it, the folder need not be sealed. Raises IntegrityError where a file differs
    from the manifest, and the store's errors.
    """
    manifest = manifest or read_manifest(folder)
    by_key = {content_key(entry.sha256): folder / name for name, entry in manifest.files.items()}
    sizes = {content_key(entry.sha256): entry.size_bytes for entry in manifest.files.values()}
    there = {key: info for key, info in store.known(list(by_key)).items() if info.size_bytes == sizes[key]}
    again = _not_renewed(store, there.values())
    missing = [
        Transfer(path, key, sizes[key], key.removeprefix(f"{CONTENT}/"))
        for key, path in sorted(by_key.items(), key=lambda pair: sizes[pair[0]])
        if key not in there or key in again
    ]
    try:
        with moving(progress, f"uploading {folder.name}", missing) as moved:
            store.upload_all(missing, moved)
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename}: named in the manifest but missing; run its stage again") from None
    return manifest


def fetch_tree(store: ObjectStore, manifest: Manifest, folder: Path, progress: Progress | None = None) -> None:
    """Download a manifest's folder, as a whole and verified; an earlier folder there is replaced at the end.

    An interrupted call keeps its finished files next to the folder, and the next call for the same manifest goes on
    from them. Only one process fetches at a time. Raises IntegrityError naming what is missing or changed.
    """
    try:
        with filling(folder, manifest.digest) as made:
            transfers = [
                Transfer(made / name, content_key(entry.sha256), entry.size_bytes, entry.sha256)
                for name, entry in manifest.files.items()
            ]
            fetch_missing(store, transfers, folder.name, progress)
            (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except NotFoundError as error:
        raise IntegrityError(f"{error}, though a manifest names it; run the stage that made it again") from None


def fetch_texts(store: ObjectStore, trees: Mapping[Path, Manifest]) -> None:
    """Fetch several trees without their tensors into new folders, in parallel, each file verified.

    Their manifests are those of the whole trees. Raises IntegrityError naming what is missing or changed.
    """
    transfers = [
        Transfer(folder / name, content_key(entry.sha256), entry.size_bytes, entry.sha256)
        for folder, manifest in trees.items()
        for name, entry in manifest.files.items()
        if not name.endswith(_TENSORS)
    ]
    for folder, manifest in trees.items():
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    try:
        store.download_all(transfers)
    except NotFoundError as error:
        raise IntegrityError(f"{error}, though a manifest names it; run the stage that made it again") from None


def fetch_missing(store: ObjectStore, transfers: list[Transfer], name: str, progress: Progress | None) -> None:
    """Download what an earlier, interrupted call did not."""
    missing = [transfer for transfer in transfers if not _is_there(transfer)]
    with moving(progress, f"downloading {name}", missing) as moved:
        store.download_all(missing, moved)


@contextmanager
def filling(folder: Path, digest: str) -> Iterator[Path]:
    """A scratch folder next to `folder`, kept from an interrupted call for the same digest; replaces it at the end."""
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            made = folder.with_name(f".{folder.name}.{digest[:16]}.fetching")
            for left in folder.parent.glob(f".{folder.name}.*.fetching"):
                if left != made:
                    shutil.rmtree(left, ignore_errors=True)
            made.mkdir(exist_ok=True)
            yield made
            replace_folder(made, folder)


@contextmanager
def moving(progress: Progress | None, title: str, transfers: Iterable[Transfer]) -> Iterator[Moved]:
    """A bar in megabytes, and the function to call as bytes move; silent where there is nothing to move."""
    total = sum(transfer.size_bytes for transfer in transfers)
    shown = progress if progress is not None and total else Silent()
    shown.start(f"{title} (MB)", max(round(total / _MB), 1))
    lock, bytes_moved, shown_mb = threading.Lock(), 0, 0

    def moved(count: int) -> None:
        nonlocal bytes_moved, shown_mb
        with lock:
            bytes_moved += count
            if (step := round(bytes_moved / _MB) - shown_mb) > 0:
                shown_mb += step
                shown.advance(step)

    yield moved


def _not_renewed(store: ObjectStore, there: Iterable[ObjectInfo]) -> set[str]:
    """Make old content young; returns what a server would not copy onto itself, which is then sent again."""
    old = time.time() - RENEW_AFTER_SECONDS
    keys = [info.key for info in there if info.modified < old]

    def renewed(key: str) -> bool:
        try:
            store.renew(key)
        except (DeniedError, UnsupportedError):
            return False
        return True

    with ThreadPoolExecutor(_RENEWED_AT_ONCE) as pool:
        return {key for key, young in zip(keys, pool.map(renewed, keys), strict=True) if not young}


def _is_there(transfer: Transfer) -> bool:
    path = transfer.path
    return (
        transfer.sha256 is not None
        and path.is_file()
        and path.stat().st_size == transfer.size_bytes
        and file_sha256(path) == transfer.sha256
    )
