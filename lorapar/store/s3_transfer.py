"""Copy files to and from a bucket by boto3's transfer manager: many at a time, with bounded memory."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from s3transfer.subscribers import BaseSubscriber

from lorapar.errors import IntegrityError
from lorapar.store.artifact import file_sha256, storage_errors
from lorapar.store.base import Transfer
from lorapar.store.file_system import replace_path
from lorapar.store.s3_client import CONCURRENT_REQUESTS
from lorapar.store.s3_errors import MismatchError, s3_errors
from lorapar.store.s3_headers import sends_checksums
from lorapar.store.s3_parts import MB, UPLOAD_PART_BYTES, WHOLE_BELOW_BYTES
from lorapar.store.s3_small import Watch, base64_of

_DOWNLOAD_PART_BYTES = 16 * MB
_COPIED_AT_ONCE_BYTES = 5 * 1000 * MB
_WRITE_BYTES = MB
_QUEUED_WRITES = 32
"""Chunks that may wait for a slow disk; boto3's default of 1000 could fill the memory."""


def upload_all(
    client: Any,
    bucket: str,
    keyed: Iterable[tuple[Transfer, str]],
    where: str,
    watch: Watch,
    *,
    parts_from_bytes: int = WHOLE_BELOW_BYTES,
) -> None:
    """Upload each file to its full key, large ones in parts; messages show `where` before the key."""
    with _manager(client, parts_from_bytes, UPLOAD_PART_BYTES) as manager:
        running = []
        for transfer, key in keyed:
            _check_large(transfer)
            whole = transfer.size_bytes < parts_from_bytes
            checked = sends_checksums(client) and whole and transfer.sha256 is not None
            options = {"ChecksumSHA256": base64_of(transfer.sha256)} if checked else None
            subscribers = [_Subscriber(transfer, watch, watch.done.add)]
            running.append((manager.upload(str(transfer.path), bucket, key, options, subscribers), transfer))
        for future, transfer in running:
            with _changed_meanwhile(transfer, where), s3_errors(f"{where}/{transfer.key}", client.meta.endpoint_url):
                future.result()


@contextmanager
def _changed_meanwhile(transfer: Transfer, where: str) -> Iterator[None]:
    """Distinguish a file that changed during the upload from a server that misreads the request."""
    try:
        yield
    except MismatchError:
        if transfer.sha256 is not None and file_sha256(transfer.path) != transfer.sha256:
            raise IntegrityError(
                f"{where}/{transfer.key}: what was sent is not what was recorded: {transfer.path} changed meanwhile"
            ) from None
        raise


def download_all(client: Any, bucket: str, keyed: Iterable[tuple[Transfer, str]], where: str, watch: Watch) -> None:
    """Download each full key to its file; the digest is computed while the bytes arrive.

    Each transfer names its `version`, so the manager asks the server only for bytes.
    """
    part = _DOWNLOAD_PART_BYTES if _can_part(client) else sys.maxsize
    arrived: set[Transfer] = set()
    files: dict[Transfer, _VerifiedFile] = {}
    try:
        with _manager(client, WHOLE_BELOW_BYTES, part) as manager:
            running = []
            for transfer, key in keyed:
                with storage_errors(transfer.path):
                    file = files[transfer] = _VerifiedFile(transfer, f"{where}/{transfer.key}")
                future = None
                if transfer.size_bytes:  # an empty range is an error in S3
                    subscribers = [_Subscriber(transfer, watch, arrived.add)]
                    future = manager.download(bucket, key, file, None, subscribers)
                running.append((future, transfer))
            for future, transfer in running:
                with storage_errors(transfer.path), s3_errors(f"{where}/{transfer.key}", client.meta.endpoint_url):
                    if future is not None:
                        future.result()
                    files[transfer].finish()
                del files[transfer]
                watch.done.add(transfer)
    finally:
        for transfer, file in files.items():  # only after a failure: keep what has arrived
            if transfer in arrived:
                with suppress(IntegrityError, OSError):
                    file.finish()
                    watch.done.add(transfer)
            file.discard()


def copy_onto_itself(client: Any, bucket: str, key: str) -> None:
    """Let the server copy an object onto itself, in one request up to S3's limit of 5 GB."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    source = {"Bucket": bucket, "Key": key}
    with create_transfer_manager(client, TransferConfig(multipart_threshold=_COPIED_AT_ONCE_BYTES)) as manager:
        manager.copy(source, bucket, key, {"MetadataDirective": "REPLACE"}).result()


def _manager(client: Any, threshold: int, part: int) -> Any:
    from s3transfer.manager import TransferConfig, TransferManager

    config = TransferConfig(
        multipart_threshold=threshold,
        multipart_chunksize=part,
        max_request_concurrency=CONCURRENT_REQUESTS,
        io_chunksize=_WRITE_BYTES,
        max_io_queue_size=_QUEUED_WRITES,
    )
    return TransferManager(client, config)


def _can_part(client: Any) -> bool:
    """Whether downloads in parts are safe.

    Where checksums are switched off, the manager (s3transfer 0.19) requests the further parts of an object inside the
    thread that fetched the first one, and ten such threads wait for each other for ever.
    """
    return bool(client.meta.config.response_checksum_validation != "when_required")


def _check_large(transfer: Transfer) -> None:
    """Check a large file's digest before the upload: the server checks only whole objects, not parts."""
    if transfer.sha256 is None or transfer.size_bytes < WHOLE_BELOW_BYTES:
        return
    if transfer.path.stat().st_size != transfer.size_bytes or file_sha256(transfer.path) != transfer.sha256:
        raise IntegrityError(f"{transfer.path}: its bytes are not those the manifest names; run its stage again")


class _Subscriber(BaseSubscriber):  # type: ignore[misc]
    """Passes size and version from a listing to the transfer manager, and its progress to the caller."""

    def __init__(self, transfer: Transfer, watch: Watch, arrived: Callable[[Transfer], None]) -> None:
        self._transfer = transfer
        self._watch = watch
        self._arrived = arrived

    def on_queued(self, future: Any, **_: Any) -> None:
        """Pass on size and version, so that the manager need not ask."""
        future.meta.provide_transfer_size(self._transfer.size_bytes)
        if self._transfer.version is not None:
            future.meta.provide_object_etag(self._transfer.version)

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
        """Some bytes moved."""
        if self._watch.moved is not None:
            self._watch.moved(bytes_transferred)

    def on_done(self, future: Any, **_: Any) -> None:
        """Ended, in one way or the other."""
        with suppress(Exception):
            future.result()
            self._arrived(self._transfer)


class _VerifiedFile:
    """The scratch file of a download, with a running digest.

    A whole object arrives in order, and starts over after a broken connection. Parts of a large object arrive in any
    order: its digest is computed at the end.
    """

    def __init__(self, transfer: Transfer, address: str) -> None:
        self.path = transfer.path
        self._transfer = transfer
        self._address = address
        self._digest: Any = hashlib.sha256()
        self._place = 0
        self._in_order = True
        self._file: BinaryIO | None = None
        transfer.path.parent.mkdir(parents=True, exist_ok=True)
        self._scratch: Path | None = transfer.path.with_name(f".lorapar-{uuid.uuid4().hex}")

    def seekable(self) -> bool:
        """Yes: the manager may write anywhere."""
        return True

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._place

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go on at `place`."""
        if place != self._place:
            self._in_order = self._in_order and place == 0
            self._digest = hashlib.sha256()
            self._place = place
        return place

    def write(self, data: bytes) -> int:
        """Write at the current place. Closes a file that arrived in order with its last byte, so few stay open."""
        if self._scratch is None:
            return len(data)  # given up meanwhile
        if self._file is None or self._file.closed:
            self._file = self._scratch.open("r+b" if self._scratch.exists() else "xb")
        self._file.seek(self._place)
        self._file.write(data)
        self._place += len(data)
        if self._in_order:
            self._digest.update(data)
            if self._place == self._transfer.size_bytes:
                self._file.close()
        return len(data)

    def finish(self) -> None:
        """Give the file its name once its bytes match the digest; raises IntegrityError."""
        if self._scratch is None:
            return
        if self._file is None:
            self._scratch.touch()
        else:
            self._file.close()
        wanted = self._transfer.sha256
        size = self._scratch.stat().st_size
        if size != self._transfer.size_bytes or wanted not in (None, self._sha256(self._scratch)):
            raise IntegrityError(f"{self._address}: its bytes are not those that were recorded; make them again")
        replace_path(self._scratch, self.path)
        self._scratch = None

    def _sha256(self, scratch: Path) -> str:
        return str(self._digest.hexdigest()) if self._in_order else file_sha256(scratch)

    def discard(self) -> None:
        """Remove an unfinished file; does nothing after `finish`."""
        scratch, self._scratch = self._scratch, None
        if self._file is not None:
            self._file.close()
        if scratch is not None:
            scratch.unlink(missing_ok=True)
