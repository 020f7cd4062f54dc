"""Sizes of the parts of an upload, and the ETag that a server gives the result unless it encrypts."""

from __future__ import annotations

import hashlib
from pathlib import Path

MB = 1 << 20
WHOLE_BELOW_BYTES = 32 * MB
"""Up to this size an object is uploaded in one request, whose sha256 the server checks; larger ones in parts."""
UPLOAD_PART_BYTES = 16 * MB


def part_etag(path: Path) -> str:
    """md5 of the bytes, or for several parts md5 of their md5s and their number, in quotes."""
    if path.stat().st_size < WHOLE_BELOW_BYTES:
        return f'"{_md5(path.read_bytes()).hexdigest()}"'
    parts = []
    with path.open("rb") as file:
        while part := file.read(UPLOAD_PART_BYTES):
            parts.append(_md5(part).digest())
    return f'"{_md5(b"".join(parts)).hexdigest()}-{len(parts)}"'


def _md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
