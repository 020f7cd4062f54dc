"""What every kind of storage can do, whether a bucket or a local folder."""

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
    """The connection failed or broke off, or the server is ill; the same call may work in a while."""


class DeniedError(UnreachableError):
    """The credentials in use may not do what was asked, or a policy of the bucket refuses how it was asked."""


class UnsupportedError(UnreachableError):
    """The server does not know what it was asked for."""


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
    """What the bytes must be; a copy that is not is refused with IntegrityError and never becomes visible."""
    version: str | None = None
    """For downloads: the version of the object that a listing showed; another one is refused."""


Moved = Callable[[int], None]
"""Told how many bytes moved just now; negative where a retry begins again. Called from several threads."""


class ObjectStore(Protocol):
    """Objects by key below one address. Keys are relative, with `/` between plain names.

    All calls raise UnreachableError where the storage does not answer or refuses, naming address and cause.
    """

    @property
    def address(self) -> str:
        """Where it was opened, as a person would write it."""

    @property
    def endpoint(self) -> str:
        """The server behind it: equal addresses of different servers are different stores."""

    def read(self, key: str) -> bytes:
        """The bytes of a small object; raises NotFoundError."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and a token of this very version, for `write_if_unchanged`; raises NotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Write a small object; a reader sees the old bytes or the new ones, never half of them."""

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; of writers that race exactly one gets True."""

    def write_if_unchanged(self, key: str, data: bytes, version: str) -> bool:
        """Replace the version that was read; False where somebody else has replaced or deleted it since."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file into the store; it becomes visible whole or not at all."""

    def upload_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy local files into the store, several at a time with bounded memory, each visible whole or not at all.

        Where one fails the others are given up, their parts aborted, and the failure is raised: IntegrityError for a
        file whose bytes are not those its `sha256` names.
        """

    def upload_in_parts(self, transfer: Transfer) -> None:
        """Upload a small file in the way that large ones go up, once and without patience: to try it out."""

    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, with bounded memory; raises NotFoundError."""

    def download_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Copy objects to local files, several at a time with bounded memory; a file appears only once it is whole.

        Raises NotFoundError, IntegrityError for bytes that are not those asked for, StorageError for a full disk.
        """

    def known(self, keys: Sequence[str]) -> dict[str, ObjectInfo]:
        """Those of the keys that exist; takes a listing or single questions, whichever are fewer requests."""

    def exists(self, key: str) -> bool:
        """Whether the key exists."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in the order of their keys."""

    def renew(self, key: str) -> None:
        """Make the object as young as if it had been written just now, bytes unchanged; raises NotFoundError."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects, in as few requests as the storage allows."""

    def unfinished(self, older_than: float) -> int:
        """How many uploads were begun before that time (seconds since the epoch) and neither finished nor aborted."""

    def abort_unfinished(self, older_than: float) -> None:
        """Remove what such uploads have left."""
