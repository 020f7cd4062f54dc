"""Storage in a bucket of any S3-compatible server, by boto3 and its transfer manager."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorapar.addresses import S3Address, check_key
from lorapar.errors import IntegrityError, UnreachableError
from lorapar.store.base import Moved, NotFoundError, ObjectInfo, Transfer, UnansweredError, UnsupportedError
from lorapar.store.s3_client import connection
from lorapar.store.s3_errors import CONFLICT, MISSING, TAKEN, code_of, refused_in_batch, s3_errors
from lorapar.store.s3_small import Watch, download_small, is_small, read_whole, several, upload_small, version_of

_CONFLICTS = 20
"""How often to repeat a conditional write that collided with another one, as S3's documentation asks."""
_KEYS_A_PAGE = 1000
_QUESTIONS_A_PAGE = 10
"""A page of a listing takes about as long as ten single requests, which go out ten at a time."""
_PAUSES_SECONDS = (2.0, 5.0, 15.0, 30.0)
"""Pauses between attempts to finish a copy whose server fails, on top of boto3's own retries."""
_WRITER = "lorapar-writer"
_CopyAll = Callable[[Any, str, Iterable[tuple[Transfer, str]], str, Watch], None]


class S3Store:
    """An ObjectStore below `s3://bucket/prefix`."""

    def __init__(self, where: S3Address) -> None:
        self._where = where
        self._root = f"{where.prefix}/" if where.prefix else ""
        self._connection = connection(str(where))
        self._client = self._connection.client
        self._met = False

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self._where)

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return self._connection.endpoint

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._where.bucket

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and its ETag; a connection that breaks half-way is tried again."""
        with self._errors(key):
            data, _, version = read_whole(self._client, self._named(key))
            return data, version

    def write(self, key: str, data: bytes) -> None:
        """One put, which S3 makes visible as a whole."""
        with self._errors(key):
            self._client.put_object(**self._named(key), Body=data)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """A put with If-None-Match."""
        return self._conditional(key, data, {"IfNoneMatch": "*"})

    def write_if_unchanged(self, key: str, data: bytes, version: str) -> bool:
        """A put with If-Match."""
        return self._conditional(key, data, {"IfMatch": version})

    def upload(self, path: Path, key: str) -> None:
        """In parallel parts where the file is large."""
        self.upload_all([Transfer(path, key, path.stat().st_size)])

    def upload_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Several at a time; the parts of incomplete uploads are aborted."""
        small, large = _by_size(transfers)
        if small:
            self._patiently(upload_small, small, moved)
        if large:
            from lorapar.store import s3_transfer

            self._patiently(s3_transfer.upload_all, large, moved)

    def upload_in_parts(self, transfer: Transfer) -> None:
        """One part."""
        from lorapar.store import s3_transfer

        keyed, watch = [(transfer, self._key(transfer.key))], Watch(None)
        with self._errors(transfer.key), self._connection.impatient_client() as client:
            s3_transfer.upload_all(client, self.bucket, keyed, self.address, watch, parts_from_bytes=1)

    def download(self, key: str, path: Path) -> None:
        """In parallel parts where the object is large."""
        info = self._look(key)
        if info is None:
            raise NotFoundError(f"{self.address}/{key}: there is no such object")
        self.download_all([Transfer(path, key, info.size_bytes, version=info.version)])

    def download_all(self, transfers: Iterable[Transfer], moved: Moved | None = None) -> None:
        """Several at a time; versions of large objects are looked up first."""
        small, large = _by_size(transfers)
        versioned = tuple(self._versioned(large))
        if small:
            self._patiently(download_small, small, moved)
        if versioned:
            from lorapar.store import s3_transfer

            self._patiently(s3_transfer.download_all, versioned, moved)

    def known(self, keys: Sequence[str]) -> dict[str, ObjectInfo]:
        """From a listing while that is cheaper; the rest by single requests, ten at a time."""
        wanted, found = set(keys), {}
        pages = len(wanted) // _QUESTIONS_A_PAGE
        open_keys = sorted(wanted)
        if pages:
            common = _common_folder(open_keys)
            for number, info in enumerate(self.list(common), 1):
                if info.key in wanted:
                    found[info.key] = info
                if number >= pages * _KEYS_A_PAGE:
                    open_keys = [key for key in open_keys if key > info.key]
                    break
            else:
                open_keys = []
        answers = several(self._look, open_keys)
        return found | {info.key: info for info in answers if info is not None}

    def exists(self, key: str) -> bool:
        """One small request."""
        return self._look(key) is not None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Pages of at most a thousand."""
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._root + prefix
            ):
                if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                    raise UnreachableError(
                        f"{self.address}: {self.endpoint} lists a part of the objects and does not say how to go on, "
                        "so the others would be taken for missing; it needs ListObjectsV2 with continuation tokens"
                    )
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self._root)
                    if key.endswith("/"):  # consoles make such objects to show a folder
                        continue
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"].timestamp(), entry["ETag"])

    def renew(self, key: str) -> None:
        """Copy the object onto itself, which the server does without moving the bytes over the network."""
        from lorapar.store import s3_transfer

        with self._errors(key):
            s3_transfer.copy_onto_itself(self._client, self.bucket, self._key(key))

    def delete(self, key: str) -> None:
        """Remove the object. Some servers say that it was missing, which is as good."""
        with suppress(NotFoundError), self._errors(key):
            self._client.delete_object(**self._named(key))

    def delete_all(self, keys: Sequence[str]) -> None:
        """A thousand in one request; raises UnreachableError naming the first that the server did not remove."""
        for start in range(0, len(keys), _KEYS_A_PAGE):
            some = [{"Key": self._key(key)} for key in keys[start : start + _KEYS_A_PAGE]]
            try:
                with self._errors(""):
                    answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": some, "Quiet": True})
            except UnsupportedError:  # some gateways support only single deletions
                several(self.delete, keys[start : start + _KEYS_A_PAGE])
                continue
            for error in answer.get("Errors", ()):
                if error.get("Code") in MISSING:
                    continue
                place = f"s3://{self.bucket}/{error.get('Key', self._root)}"
                raise refused_in_batch(place, self.endpoint, error)

    def unfinished(self, older_than: float) -> int:
        """Uploads in parts."""
        return sum(1 for _ in self._unfinished(older_than))

    def abort_unfinished(self, older_than: float) -> None:
        """Abort uploads in parts."""
        with self._errors(""):
            for upload in list(self._unfinished(older_than)):
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _unfinished(self, older_than: float) -> Iterator[dict[str, Any]]:
        with suppress(UnsupportedError), self._errors(""):  # without the right to list them, they stay
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._root)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"].timestamp() < older_than:
                        yield upload

    def _look(self, key: str) -> ObjectInfo | None:
        """The object under a key. Not by a HEAD request, whose answer has no body to explain an error."""
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                answer = self._client.get_object(**self._named(key), Range="bytes=0-0")
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                if code_of(error) != "InvalidRange":
                    raise
                answer = self._client.head_object(**self._named(key))  # an empty object
            else:
                if not {"ContentRange", "ContentLength"} & answer.keys():  # whole and in chunks, through a gateway
                    answer["ContentLength"] = len(answer["Body"].read())
                answer["Body"].close()
        version = version_of(answer, self._client)
        size = int((answer.get("ContentRange") or f"/{answer['ContentLength']}").rpartition("/")[2])
        modified = answer.get("LastModified")  # without a time it counts as new, so that nothing removes it
        return ObjectInfo(key, size, modified.timestamp() if modified else time.time(), version)

    def _conditional(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        """Whether the write succeeded; a token in the metadata marks an earlier attempt of this call."""
        from botocore.exceptions import ClientError

        token = uuid.uuid4().hex
        with self._errors(key):
            for _ in range(_CONFLICTS):
                try:
                    self._client.put_object(**self._named(key), Body=data, Metadata={_WRITER: token}, **condition)
                except ClientError as error:
                    if code_of(error) in CONFLICT:
                        continue
                    if code_of(error) not in (*TAKEN, *MISSING):
                        raise
                    return _was_repeated(error) and self._is_ours(key, token)
                return True
        raise UnreachableError(f"{self.address}/{key}: {_CONFLICTS} attempts to write collided with others; try again")

    def _is_ours(self, key: str, token: str) -> bool:
        """Whether an attempt succeeded although its answer was lost."""
        from botocore.exceptions import ClientError

        try:
            answer = self._client.head_object(**self._named(key))
        except ClientError:
            return False
        return bool(answer["Metadata"].get(_WRITER) == token)

    def _versioned(self, transfers: Iterable[Transfer]) -> Iterator[Transfer]:
        """The transfers with their versions; raises NotFoundError and IntegrityError before it moves anything."""
        transfers = tuple(transfers)
        found = self.known([transfer.key for transfer in transfers if transfer.version is None])
        for transfer in transfers:
            if transfer.version is None:
                info = found.get(transfer.key)
                if info is None:
                    raise NotFoundError(f"{self.address}/{transfer.key}: there is no such object")
                if info.size_bytes != transfer.size_bytes:
                    raise IntegrityError(
                        f"{self.address}/{transfer.key}: holds {info.size_bytes} bytes, not the {transfer.size_bytes} "
                        "that were recorded; make it again"
                    )
                transfer = replace(transfer, version=info.version)
            yield transfer

    def _patiently(self, copy_all: _CopyAll, transfers: Iterable[Transfer], moved: Moved | None) -> None:
        """Copy; where the server fails half-way, wait for it and go on with what is missing."""
        left, watch = tuple(transfers), Watch(moved)
        for pause_seconds in (*_PAUSES_SECONDS, None):
            keyed = [(transfer, self._key(transfer.key)) for transfer in left]
            try:
                with self._errors(""):
                    copy_all(self._client, self.bucket, keyed, self.address, watch)
                return
            except UnansweredError:
                if pause_seconds is None or not self._met:
                    raise
            time.sleep(pause_seconds)
            left = tuple(transfer for transfer in left if transfer not in watch.done)

    def _key(self, key: str) -> str:
        return self._root + check_key(key)

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.address}/{key}" if key else self.address
        with s3_errors(where, self.endpoint):
            if not self._met:
                self._connection.first_contact()
                self._met = True
            yield


def _was_repeated(error: Any) -> bool:
    return bool(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _by_size(transfers: Iterable[Transfer]) -> tuple[list[Transfer], list[Transfer]]:
    """The small ones, and the others."""
    small: list[Transfer] = []
    large: list[Transfer] = []
    for transfer in transfers:
        (small if is_small(transfer) else large).append(transfer)
    return small, large


def _common_folder(keys: Sequence[str]) -> str:
    """The folder that holds all the sorted keys, with its slash; empty where there is none."""
    first, last = keys[0], keys[-1]
    same = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[: first.rfind("/", 0, same) + 1]
