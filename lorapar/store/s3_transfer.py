"""Files to and from a bucket by boto3's transfer manager: many at a time, bounded memory, each whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from lorapar.errors import IntegrityError
from lorapar.store.artifact import file_sha256, storage_errors
from lorapar.store.base import Moved, Transfer
from lorapar.store.s3_client import CONCURRENT_REQUESTS
from lorapar.store.s3_errors import s3_errors

_MB = 1 << 20
WHOLE_BELOW_BYTES = 32 * _MB
"""Up to this size an object goes up in one request, whose sha256 the server itself checks; larger ones in parts."""
_UPLOAD_PART_BYTES = 16 * _MB
_DOWNLOAD_PART_BYTES = 8 * _MB
"""Ten of them may wait in memory for an earlier one."""
_COPIED_AT_ONCE_BYTES = 5 * 1000 * _MB
_QUEUED_WRITES = 64
"""Pieces of 256 KB that may wait for a slow disk: boto3's default of 1000 would be 256 MB."""


def upload_all(
    client: Any, bucket: str, keyed: Iterable[tuple[Transfer, str]], where: str, moved: Moved | None
) -> None:
    """Upload each file to its whole key; `where` stands before the relative key in messages."""
    with _manager(client, WHOLE_BELOW_BYTES, _UPLOAD_PART_BYTES) as manager:
        running = []
        for transfer, key in keyed:
            told = f"{where}/{transfer.key}"
            _check_large(transfer)
            options = {"ChecksumSHA256": _base64(transfer.sha256)} if _is_checked_there(transfer) else None
            future = manager.upload(str(transfer.path), bucket, key, options, _subscribers(transfer, moved))
            running.append((future, told))
        for future, told in running:
            with s3_errors(told, client.meta.endpoint_url):
                future.result()


def download_all(
    client: Any, bucket: str, keyed: Iterable[tuple[Transfer, str]], where: str, moved: Moved | None
) -> None:
    """Download each whole key to its file; the digest is taken while the bytes arrive."""
    running: list[tuple[Any, _VerifiedFile, str]] = []
    try:
        with _manager(client, _DOWNLOAD_PART_BYTES, _DOWNLOAD_PART_BYTES) as manager:
            for transfer, key in keyed:
                told = f"{where}/{transfer.key}"
                with storage_errors(transfer.path):
                    file = _VerifiedFile(transfer, told)
                    future = None
                    if transfer.size_bytes:  # a range of nothing is an error in S3
                        future = manager.download(bucket, key, file, None, _subscribers(transfer, moved))
                running.append((future, file, told))
            for future, file, told in running:
                with storage_errors(file.path), s3_errors(told, client.meta.endpoint_url):
                    if future is not None:
                        future.result()
                    file.finish()
    finally:
        for _, file, _ in running:
            file.discard()


def copy_onto_itself(client: Any, bucket: str, key: str) -> None:
    """Let the server write an object anew, in one request up to the 5 GB that S3 allows for that."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=_COPIED_AT_ONCE_BYTES)
    source = {"Bucket": bucket, "Key": key}
    client.copy(source, bucket, key, {"MetadataDirective": "REPLACE"}, Config=config)


def _manager(client: Any, threshold: int, part: int) -> Any:
    from s3transfer.manager import TransferConfig, TransferManager

    config = TransferConfig(
        multipart_threshold=threshold,
        multipart_chunksize=part,
        max_request_concurrency=CONCURRENT_REQUESTS,
        max_in_memory_download_chunks=CONCURRENT_REQUESTS,
        max_io_queue_size=_QUEUED_WRITES,
    )
    return TransferManager(client, config)


def _is_checked_there(transfer: Transfer) -> bool:
    return transfer.sha256 is not None and transfer.size_bytes < WHOLE_BELOW_BYTES


def _check_large(transfer: Transfer) -> None:
    """The server checks whole objects only; a file that goes up in parts is read once more before."""
    if transfer.sha256 is None or transfer.size_bytes < WHOLE_BELOW_BYTES:
        return
    if transfer.path.stat().st_size != transfer.size_bytes or file_sha256(transfer.path) != transfer.sha256:
        raise IntegrityError(f"{transfer.path}: its bytes are not those the manifest names; run its stage again")


def _base64(sha256: str | None) -> str:
    return base64.b64encode(bytes.fromhex(sha256 or "")).decode()


def _subscribers(transfer: Transfer, moved: Moved | None) -> list[Any]:
    from s3transfer.subscribers import BaseSubscriber

    class Watch(BaseSubscriber):  # type: ignore[misc]
        """Gives the transfer manager what a listing said already, and counts bytes."""

        def on_queued(self, future: Any, **_: Any) -> None:
            future.meta.provide_transfer_size(transfer.size_bytes)
            if transfer.version is not None:
                future.meta.provide_object_etag(transfer.version)

        def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
            if moved is not None:
                moved(bytes_transferred)

    return [Watch()]


class _VerifiedFile:
    """Where the transfer manager writes a download, in order: a scratch file whose digest grows with it.

    It has no `seek`, which makes the manager hand over the parts in order.
    """

    def __init__(self, transfer: Transfer, told: str) -> None:
        self.path = transfer.path
        self._transfer = transfer
        self._told = told
        self._digest = hashlib.sha256()
        self._left = transfer.size_bytes
        self._file: BinaryIO | None = None
        transfer.path.parent.mkdir(parents=True, exist_ok=True)
        self._scratch: Path | None = transfer.path.with_name(f".lorapar-{uuid.uuid4().hex}")

    def write(self, data: bytes) -> int:
        """Append; closes the file with its last byte, so that thousands of files do not stay open."""
        if self._scratch is None:
            return len(data)  # given up meanwhile
        if self._left < len(data):
            raise IntegrityError(f"{self._told}: holds more bytes than were recorded; make it again")
        if self._file is None:
            self._file = self._scratch.open("xb")
        self._file.write(data)
        self._digest.update(data)
        self._left -= len(data)
        if not self._left:
            self._file.close()
        return len(data)

    def finish(self) -> None:
        """Give the file its name once its bytes are those asked for; raises IntegrityError."""
        if self._scratch is None:
            return
        if self._file is None:
            self._scratch.touch()
        else:
            self._file.close()
        wanted = self._transfer.sha256
        if self._left or wanted not in (None, self._digest.hexdigest()):
            raise IntegrityError(f"{self._told}: its bytes are not those that were recorded; make them again")
        os.replace(self._scratch, self.path)
        self._scratch = None

    def discard(self) -> None:
        """Remove what is unfinished; nothing happens after `finish`."""
        scratch, self._scratch = self._scratch, None
        if self._file is not None:
            self._file.close()
        if scratch is not None:
            scratch.unlink(missing_ok=True)
