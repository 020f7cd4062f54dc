"""The interface of every kind of storage, whether a bucket or a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorapar.errors import ExitCode, LoraparError, UnreachableError

LOCAL = "this machine"
"""The endpoint of storage in a folder."""


class NotFoundError(LoraparError):
    """No object under that key; the message names the whole address."""

    exit_code = ExitCode.INTEGRITY


class UnansweredError(UnreachableError):
    """The connection failed or broke off, or the server has a fault; the same call may work later."""


class DeniedError(UnreachableError):
    """The credentials lack a right, or a policy of the bucket refuses the form of the request."""


class UnsupportedError(UnreachableError):
    """The server does not support the request."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    key: str
    """Relative to the address the store was opened with."""
    size_bytes: int
    modified: float
    """Seconds since the epoch."""
    version: str = ""
    """Changes whenever the bytes do: an ETag, or size and time of a local file."""


@dataclass(frozen=True)
class Transfer:
    """A local file and the object it is copied to or from."""

    path: Path
    key: str
    size_bytes: int
    sha256: str | None = None
    """The digest of the bytes; a copy that differs raises IntegrityError and never becomes visible."""
    version: str | None = None
    """For downloads: the version of the object that a listing showed; another version is refused."""


Moved = Callable[[int], None]
"""Called with the number of bytes just moved; negative where a retry starts over. Called from several threads."""


class ObjectStore(Protocol):
    """Objects by key below one address. Keys are relative, with `/` between plain names.

    All calls raise UnreachableError where the storage does not answer or refuses, naming address and cause.
    """

    @property
    def address(self) -> str:
        """The address it was opened with, as a person would write it."""

    @property
    def endpoint(self) -> str:
        """The server behind it: equal addresses of different servers are different stores."""

    def read(self, key: str) -> bytes:
        """The bytes of a small object; raises NotFoundError."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and a token of this version, for `write_if_unchanged`; raises NotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Write a small object; a reader sees the old or the new bytes, never half of them."""

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; of several writers at once, exactly one gets True."""

    def write_if_unchanged(self, key: str, data: bytes, version: str) -> bool:
        """Replace the version that was read; False where another writer has replaced or deleted it since."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file into the store; it becomes visible as a whole or not at all."""

    def upload_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy local files into the store, several at a time with bounded memory; each is visible only as a whole.

        Where one fails, the others stop, their parts are aborted, and the failure is raised: IntegrityError for a file
        whose bytes differ from its `sha256`.
        """

    def upload_in_parts(self, transfer: Transfer) -> None:
        """Try the upload of large files with a small one, once and without long retries."""

    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, with bounded memory; raises NotFoundError."""

    def download_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy objects to local files, several at a time with bounded memory; a file appears only once it is whole.

        Raises NotFoundError, IntegrityError for bytes that differ from their digest, StorageError for a full disk.
        """

    def known(self, keys: Sequence[str]) -> dict[str, ObjectInfo]:
        """The keys that exist; uses a listing or single requests, whichever needs fewer requests."""

    def exists(self, key: str) -> bool:
        """Whether the key exists."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in the order of their keys."""

    def renew(self, key: str) -> None:
        """Set the object's time to now, with unchanged bytes; raises NotFoundError."""

    def delete(self, key: str) -> None:
        """Remove an object, if it exists."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects, in as few requests as the storage allows."""

    def unfinished(self, older_than: float) -> int:
        """How many uploads began before a time (seconds since the epoch) and were neither finished nor aborted."""

    def abort_unfinished(self, older_than: float) -> None:
        """Remove what unfinished uploads left."""
