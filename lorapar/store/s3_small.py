"""Copy small objects to and from a bucket with one request each, without the transfer manager.

The manager starts threads for every call and asks for size and version first. For the few dozen files of some kilobytes
that a pipeline's task moves, that took longer than the task's work.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorapar.errors import IntegrityError, UnreachableError
from lorapar.store.artifact import storage_errors
from lorapar.store.base import Moved, Transfer
from lorapar.store.file_system import replace_path
from lorapar.store.s3_client import CONCURRENT_REQUESTS
from lorapar.store.s3_errors import s3_errors
from lorapar.store.s3_headers import sends_checksums
from lorapar.store.s3_parts import MB

SMALL_BYTES = MB
"""The largest size: ten such objects may be in memory at once."""
_BROKEN_READS = 3
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class Watch:
    """The state of a running call."""

    moved: Moved | None
    done: set[Transfer] = field(default_factory=set)
    """Transfers that need not be repeated if the call fails."""

    def finish(self, transfer: Transfer) -> None:
        """Note that a transfer has moved in one go."""
        if self.moved is not None:
            self.moved(transfer.size_bytes)
        self.done.add(transfer)


def is_small(transfer: Transfer) -> bool:
    """Whether one request is enough: the digest is known, and the bytes fit into memory."""
    return transfer.sha256 is not None and transfer.version is None and transfer.size_bytes <= SMALL_BYTES


def several(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The result for each item, ten at a time; one item needs no thread. Raises the first item's error."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        return list(pool.map(work, items))


def read_whole(client: Any, named: dict[str, str], size_bytes: int | None = None) -> tuple[bytes, int, str]:
    """An object's bytes, their number and the ETag; retried where the connection breaks half-way.

    Reads nothing of an object that has another size than expected.
    """
    attempts = _BROKEN_READS
    while True:
        answer = client.get_object(**named)
        version = version_of(answer, client)
        found = answer.get("ContentLength")  # a gateway may send an answer in chunks, without its length
        if found is not None and size_bytes not in (None, found):
            answer["Body"].close()
            return b"", found, version
        attempts -= 1
        try:
            data = answer["Body"].read()
            return data, len(data), version
        except _broken():
            if not attempts:
                raise


def version_of(answer: Mapping[str, Any], client: Any) -> str:
    """The ETag of an answer. Raises UnreachableError where there is none, as in a sign-in page."""
    if "ETag" not in answer:
        kind = answer.get("ContentType") or "of no kind"
        raise UnreachableError(
            f"{client.meta.endpoint_url} answers without an ETag ({kind}), as no S3 server does: a proxy, a sign-in "
            "page or another service may stand there; check AWS_ENDPOINT_URL"
        )
    return str(answer["ETag"])


def upload_small(client: Any, bucket: str, keyed: Iterable[tuple[Transfer, str]], where: str, watch: Watch) -> None:
    """Upload each file to its full key; messages show `where` before the key."""
    checked = sends_checksums(client)

    def upload(pair: tuple[Transfer, str]) -> None:
        transfer, key = pair
        data, address = transfer.path.read_bytes(), f"{where}/{transfer.key}"
        if hashlib.sha256(data).hexdigest() != transfer.sha256:
            raise IntegrityError(
                f"{address}: what was sent is not what was recorded: {transfer.path} changed meanwhile"
            )
        options = {"ChecksumSHA256": base64_of(transfer.sha256)} if checked else {}
        with s3_errors(address, client.meta.endpoint_url):
            client.put_object(Bucket=bucket, Key=key, Body=data, **options)
        watch.finish(transfer)

    several(upload, list(keyed))


def download_small(client: Any, bucket: str, keyed: Iterable[tuple[Transfer, str]], where: str, watch: Watch) -> None:
    """Download each full key to its file, which appears once its bytes match the digest."""

    def download(pair: tuple[Transfer, str]) -> None:
        transfer, key = pair
        address, wanted = f"{where}/{transfer.key}", transfer.size_bytes
        with s3_errors(address, client.meta.endpoint_url):
            data, found, _ = read_whole(client, {"Bucket": bucket, "Key": key}, wanted)
        if found != wanted:
            raise IntegrityError(f"{address}: holds {found} bytes, not the {wanted} that were recorded; make it again")
        if hashlib.sha256(data).hexdigest() != transfer.sha256:
            raise IntegrityError(f"{address}: its bytes are not those that were recorded; make them again")
        with storage_errors(transfer.path):
            _write(transfer, data)
        watch.finish(transfer)

    several(download, list(keyed))


def base64_of(sha256: str | None) -> str:
    """A digest in the form of S3's header."""
    return base64.b64encode(bytes.fromhex(sha256 or "")).decode()


def _write(transfer: Transfer, data: bytes) -> None:
    transfer.path.parent.mkdir(parents=True, exist_ok=True)
    scratch = transfer.path.with_name(f".lorapar-{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        replace_path(scratch, transfer.path)
    finally:
        scratch.unlink(missing_ok=True)


def _broken() -> tuple[type[Exception], ...]:
    """The errors of a body that ends early."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError
