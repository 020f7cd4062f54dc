"""Rows in a bucket: `data.source: s3://bucket/rows.jsonl`, or a prefix with several such files.

Each version of the bucket's files is copied into the cache once and read from there.
"""

from __future__ import annotations

from pathlib import Path

from lorapar.basemodel.cache import cache_root, cached_folder
from lorapar.data.readers import READERS, is_unread, row_ending
from lorapar.errors import BadInputError
from lorapar.records import digest_of
from lorapar.store import NotFoundError, ObjectInfo, ObjectStore, Transfer, open_store


def bucket_files(source: str) -> tuple[list[tuple[str, Path]], list[str]]:
    """(address, local copy) of each file of rows at the source, ordered by name; and the names of `is_unread` there.

    Raises BadInputError where there is none, UnreachableError where the bucket cannot be read.
    """
    store, infos, unread = _listed(source)
    key = digest_of({"store": store.address, "at": store.endpoint, "files": [[i.key, i.version] for i in infos]})

    def make(folder: Path) -> None:
        store.download_all(
            Transfer(folder / info.key, info.key, info.size_bytes, version=info.version) for info in infos
        )

    folder = cached_folder(f"s3-{key[:24]}", make, cache_root() / "data")
    return [(f"{store.address}/{info.key}", folder / info.key) for info in infos], unread


def _listed(source: str) -> tuple[ObjectStore, list[ObjectInfo], list[str]]:
    """The store and its files of rows: the named file, or all files below the named prefix, with those unread there.

    A prefix may hold millions of objects, so it is listed once.
    """
    parent, _, name = source.rpartition("/")
    try:
        if row_ending(name):
            store = open_store(parent)
            found = store.known([name])
            return store, [found[name]], []
        store = open_store(source)
        there = [info for info in store.list() if row_ending(info.key) or is_unread(info.key)]
    except (KeyError, NotFoundError):
        raise BadInputError(f"data.source: there is no object {source}") from None
    infos = [info for info in there if row_ending(info.key)]
    if not infos:
        raise BadInputError(f"data.source: no file below {source} ends in one of {', '.join(READERS)}")
    return store, infos, [info.key for info in there if is_unread(info.key)]
