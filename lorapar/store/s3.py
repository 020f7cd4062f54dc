"""Storage in a bucket of any S3-compatible server, by boto3 and its transfer manager.

Endpoint, region, path style, certificates and credentials come from whatever boto3's own chain finds (environment,
profile, web identity, mounted secret); nothing of that is a setting of lorapar.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorapar.errors import UnreachableError
from lorapar.store.address import S3Address, check_key
from lorapar.store.base import NotFoundError, ObjectInfo

_MISSING = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")


class S3Store:
    """An ObjectStore below `s3://bucket/prefix`."""

    def __init__(self, where: S3Address) -> None:
        import boto3
        from botocore.config import Config

        self._where = where
        self._client: Any = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self._where)

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Its bytes and its ETag."""
        with self._errors(key):
            answer = self._client.get_object(**self._named(key))
            body: bytes = answer["Body"].read()
            return body, str(answer["ETag"])

    def write(self, key: str, data: bytes) -> None:
        """One put, which S3 makes visible at once."""
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
        with self._errors(key):
            self._client.upload_file(str(path), self._where.bucket, self._key(key))

    def download(self, key: str, path: Path) -> None:
        """In parallel parts where the object is large."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key):
            self._client.download_file(self._where.bucket, self._key(key), str(path))

    def exists(self, key: str) -> bool:
        """A head request."""
        try:
            with self._errors(key):
                self._client.head_object(**self._named(key))
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Pages of at most a thousand."""
        root = f"{self._where.prefix}/" if self._where.prefix else ""
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._where.bucket, Prefix=root + prefix
            ):
                for entry in page.get("Contents", ()):
                    yield ObjectInfo(entry["Key"].removeprefix(root), entry["Size"], entry["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        """Remove the object."""
        with self._errors(key):
            self._client.delete_object(**self._named(key))

    def _conditional(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                self._client.put_object(**self._named(key), Body=data, **condition)
            except ClientError as error:
                if _code(error) in (*_TAKEN, *_MISSING):
                    return False
                raise
        return True

    def _key(self, key: str) -> str:
        return f"{self._where.prefix}/{check_key(key)}" if self._where.prefix else check_key(key)

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._where.bucket, "Key": self._key(key)}

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            if _code(error) in _MISSING:
                raise NotFoundError(f"{self.address}/{key}: there is no such object") from None
            raise UnreachableError(f"{self.address}/{key}: the object store refused: {error}") from error
        except (Boto3Error, BotoCoreError) as error:
            raise UnreachableError(f"{self.address}/{key}: the object store did not answer: {error}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
