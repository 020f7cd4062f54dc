"""Addresses of storage: `s3://bucket/prefix`, or the path of a local folder; and the keys of objects below one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lorapar.errors import BadInputError

_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ACCESS_POINT = re.compile(r"(arn:aws[a-z-]*:s3[a-z-]*:[a-z0-9-]*:\d{12}:[a-z/]*accesspoint[:/][a-z0-9.-]+)(?:/|$)")
"""A bucket by the ARN of one of its access points, as boto3 takes it."""
_ARN = re.compile(r"arn:aws[a-z-]*:s3", re.IGNORECASE)
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_KEY_PART = re.compile(r"(?! )[^/\\*?#\"<>|]+(?<! )")
"""File names that people use, with blanks inside and letters of every language."""


@dataclass(frozen=True)
class S3Address:
    """A bucket and the prefix of its objects; the prefix has no slash at either end."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def is_s3(address: str | Path) -> bool:
    """Whether an address names a bucket rather than a local folder."""
    return str(address).startswith(_SCHEME)


def parse_address(address: str | Path) -> S3Address | Path:
    """An S3Address or a local path.

    Raises BadInputError for an empty text, another scheme, and an impossible bucket name.
    """
    text = str(address)
    if not is_s3(text):
        if "://" in text:
            raise BadInputError(f"{text}: not an address lorapar knows; write s3://BUCKET/PREFIX or a local folder")
        check_slashes(text)
        return Path(text)
    rest = text.removeprefix(_SCHEME)
    point = _ACCESS_POINT.match(rest)
    bucket, prefix = (point[1], rest[point.end() :]) if point else (rest.partition("/")[0], rest.partition("/")[2])
    if not point and not _BUCKET.fullmatch(bucket):
        raise BadInputError(f"{text}: '{bucket}' cannot name a bucket: 3 to 63 small letters, digits, - and .")
    prefix = prefix.rstrip("/")  # a slash before it would belong to the key: s3://BUCKET//KEY is another object
    if prefix:
        check_key(prefix)
    return S3Address(bucket, prefix)


def check_slashes(text: str) -> None:
    """Raise BadInputError for an empty text, and for `s3:/bucket` and ARNs, which would be read as folder names."""
    if not text.strip():
        raise BadInputError("an address is empty; write s3://BUCKET/PREFIX or a local folder, or leave it out")
    if _ARN.match(text):
        raise BadInputError(f"{text}: not an address lorapar knows; write s3:// before the ARN of an access point")
    scheme = _ONE_SLASH.match(text)
    if scheme is not None:
        meant = f" (did you mean {_SCHEME}{text[scheme.end() :]}?)" if scheme[1].lower() == "s3" else ""
        raise BadInputError(f"{text}: not an address lorapar knows{meant}; write s3://BUCKET/PREFIX or a local path")


def check_key(key: str) -> str:
    """The key, checked: every part is a plain name, without `..`, control characters or patterns."""
    parts = key.split("/")
    if not key.isprintable() or not all(_KEY_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise BadInputError(
            f'{key!r} cannot be the key of an object; use names between single slashes, without * ? # " < > | and \\ '
            "and without blanks at their ends"
        )
    return key
