"""Find and remove what a store holds that nothing needs any more: `lorapar gc`.

Content lies under its digest: `cas/<sha256>` and `manifests/<digest>.json`. Everything else in the store is a root:
runs, records, checkpoints, published adapters, mirrored models, other people's files. Content is reached if its digest
occurs in a root, or in a manifest that is itself reached. Garbage is content that is not reached, and that nothing
wrote or reused for a grace time. docs/storage.md says how to remove runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lorapar.errors import BadInputError
from lorapar.store.base import NotFoundError, ObjectInfo, ObjectStore
from lorapar.store.tree import CONTENT

MANIFESTS = "manifests"
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_NAMED_BY_DIGEST = re.compile(r"(?:.*/)?[0-9a-f]{64}(?:\.json)?")
_LARGEST_ROOT_BYTES = 1_000_000
"""Files that are not JSON are searched up to this size; larger ones hold tensors or rows, not digests."""
_READERS = 10
_BATCH = 1000


@dataclass(frozen=True)
class Garbage:
    """What a search found."""

    left_over: tuple[ObjectInfo, ...]
    reached: int
    """The number of content objects that a root needs."""
    young: int
    """The number of content objects that nothing needs but that are younger than the grace time."""
    roots: int
    """The number of objects searched for digests."""
    unfinished: int
    """The number of uploads that began before the grace time and never finished."""

    @property
    def size_bytes(self) -> int:
        """The size of all garbage."""
        return sum(info.size_bytes for info in self.left_over)


def find_garbage(store: ObjectStore, grace_seconds: float, more_roots: Sequence[ObjectStore] = ()) -> Garbage:
    """Search the store; `more_roots` are other places whose files name its content. Changes nothing.

    Content is listed before the roots are read, so what a run writes meanwhile is reached or too young. Raises
    BadInputError where one of `more_roots` names no content: a misspelt root would lose what the right one needs.
    """
    before = time.time() - grace_seconds
    listed = list(store.list())
    content = [info for info in listed if _is_content(info.key)]
    roots = [info for info in listed if not _is_content(info.key) and _may_name_digests(info)]
    words = set(_words(store, roots))
    looked_into = len(roots)
    for other in more_roots:
        elsewhere = [info for info in other.list() if _may_name_digests(info)]
        found = set(_words(other, elsewhere))
        if not found:
            raise BadInputError(
                f"--root {other.address}: there is nothing here that names content; give the address as the runs were "
                "given it, or leave --root out"
            )
        words.update(found)
        looked_into += len(elsewhere)
    reached = _follow(store, {info.key: info for info in content}, words)
    loose = [info for info in content if info.key not in reached]
    left_over = tuple(info for info in loose if info.modified < before)
    return Garbage(left_over, len(reached), len(loose) - len(left_over), looked_into, store.unfinished(before))


def remove_garbage(store: ObjectStore, garbage: Garbage, grace_seconds: float) -> int:
    """Remove what was found and is still unused, manifests first; returns how many objects were removed.

    Raises BadInputError where no content is reached: that means a wrong address rather than a store full of garbage.
    """
    if garbage.left_over and not garbage.reached:
        raise BadInputError(
            f"{store.address}: nothing here is needed by a run or adapter, which looks like the wrong address; name "
            "the one the runs were given, or delete the folder by hand"
        )
    store.abort_unfinished(time.time() - grace_seconds)
    removed = 0
    ordered = sorted(garbage.left_over, key=lambda info: info.key.startswith(f"{CONTENT}/"))
    for start in range(0, len(ordered), _BATCH):
        batch = {info.key: info for info in ordered[start : start + _BATCH]}
        now = store.known(list(batch))
        same = [key for key, info in now.items() if info.modified == batch[key].modified]
        store.delete_all(same)
        removed += len(same)
    return removed


def _is_content(key: str) -> bool:
    return key.startswith((f"{CONTENT}/", f"{MANIFESTS}/")) and _NAMED_BY_DIGEST.fullmatch(key) is not None


def _may_name_digests(info: ObjectInfo) -> bool:
    if info.key.endswith(".json"):
        return True
    return info.size_bytes <= _LARGEST_ROOT_BYTES and _NAMED_BY_DIGEST.fullmatch(info.key) is None


def _words(store: ObjectStore, infos: Iterable[ObjectInfo]) -> Iterator[str]:
    """All words in the objects that have the form of a digest."""

    def read(info: ObjectInfo) -> bytes:
        try:
            return store.read(info.key)
        except NotFoundError:  # removed since the listing
            return b""

    with ThreadPoolExecutor(_READERS) as pool:
        for data in pool.map(read, infos):
            yield from (word.decode() for word in _DIGEST.findall(data))


def _follow(store: ObjectStore, content: dict[str, ObjectInfo], words: set[str]) -> set[str]:
    """Keys of the content that the words name, and that the manifests among it name."""
    reached: set[str] = set()
    while words:
        manifests = [key for word in words if (key := f"{MANIFESTS}/{word}.json") in content and key not in reached]
        reached.update(manifests)
        reached.update(key for word in words if (key := f"{CONTENT}/{word}") in content)
        words = set(_words(store, [content[key] for key in manifests]))
    return reached
