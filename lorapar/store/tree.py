"""Whole folders in the store: bytes by content under `cas/<sha256>`, named by a small manifest that is written last."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorapar.store.artifact import MANIFEST, Manifest, read_manifest, replace_folder, verify
from lorapar.store.base import ObjectStore

CONTENT = "cas"


def put_tree(store: ObjectStore, folder: Path) -> Manifest:
    """Upload what the store does not hold yet of a sealed folder; returns its manifest, which the caller hands on."""
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        key = f"{CONTENT}/{entry.sha256}"
        if not store.exists(key):
            store.upload(folder / name, key)
    return manifest


def fetch_tree(store: ObjectStore, manifest: Manifest, folder: Path) -> None:
    """Make the folder a manifest names: whole and verified, or not at all.

    Raises NotFoundError or IntegrityError naming what is missing or not as it was.
    """
    made = folder.with_name(f".{folder.name}.fetching")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for name, entry in manifest.files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{CONTENT}/{entry.sha256}", made / name)
    (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    verify(made)
    replace_folder(made, folder)
