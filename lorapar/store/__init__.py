"""Storage for what stages make: artifacts on disk, objects in a bucket or a local folder."""

from __future__ import annotations

from pathlib import Path

from lorapar.addresses import S3Address, is_s3, parse_address
from lorapar.store.artifact import (
    MANIFEST,
    FileEntry,
    Manifest,
    describe,
    file_sha256,
    make_folder,
    make_writable_folder,
    read_manifest,
    replace_folder,
    seal,
    storage_errors,
    verify,
    write_atomically,
)
from lorapar.store.base import Moved, NotFoundError, ObjectInfo, ObjectStore, Transfer
from lorapar.store.conditional import require_conditional_writes
from lorapar.store.named import refuse_other_content, write_named_file
from lorapar.store.tree import fetch_texts, fetch_tree, put_tree

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Manifest",
    "Moved",
    "NotFoundError",
    "ObjectInfo",
    "ObjectStore",
    "S3Address",
    "Transfer",
    "describe",
    "fetch_texts",
    "fetch_tree",
    "file_sha256",
    "is_s3",
    "make_folder",
    "make_writable_folder",
    "open_store",
    "parse_address",
    "put_tree",
    "read_manifest",
    "refuse_other_content",
    "replace_folder",
    "require_conditional_writes",
    "seal",
    "storage_errors",
    "verify",
    "write_atomically",
    "write_named_file",
]


def open_store(address: str | Path) -> ObjectStore:
    """The store at `s3://bucket/prefix` or in a local folder; contacts nothing yet. Raises BadInputError."""
    where = parse_address(address)
    if isinstance(where, S3Address):
        from lorapar.store.s3 import S3Store

        return S3Store(where)
    from lorapar.store.local import LocalStore

    return LocalStore(where)
