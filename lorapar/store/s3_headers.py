"""What a company's buckets ask of every request: encryption, who pays, whose the objects are; and MD5 for old servers.

Each is a setting of `store` and a variable `LORAPAR_S3_...` for commands that read no settings, pods and tasks. They
hold for every bucket of the process: stores, registries, mirrors, models and data.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal, get_args

from lorapar.errors import BadInputError

Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
Acl = Literal["bucket-owner-full-control"]
ENCRYPTION, KMS_KEY, BUCKET_KEY = "LORAPAR_S3_ENCRYPTION", "LORAPAR_S3_KMS_KEY_ID", "LORAPAR_S3_BUCKET_KEY"
REQUESTER_PAYS, ACL = "LORAPAR_S3_REQUESTER_PAYS", "LORAPAR_S3_ACL"
VARIABLES = (ENCRYPTION, KMS_KEY, BUCKET_KEY, REQUESTER_PAYS, ACL)
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_CHECKED_BY_MD5 = ("PutObject", "UploadPart", "DeleteObjects")
_CHUNK_BYTES = 1 << 20


SETTINGS = {
    "encryption": ENCRYPTION,
    "kms_key_id": KMS_KEY,
    "bucket_key": BUCKET_KEY,
    "requester_pays": REQUESTER_PAYS,
    "acl": ACL,
}
"""Settings of `store` and the variables that say the same."""


def export_settings(section: Mapping[str, Any]) -> None:
    """Let the settings of `store` hold for this process and those it starts; what is not set leaves its variable."""
    for setting, name in SETTINGS.items():
        if value := section.get(setting):
            os.environ[name] = "true" if value is True else str(value)


def parameters() -> dict[str, Any]:
    """What requests carry, by the names boto3 has for it. Raises BadInputError naming the variable."""
    encryption = _one_of(ENCRYPTION, get_args(Encryption))
    found = {
        "ServerSideEncryption": encryption,
        "SSEKMSKeyId": os.environ.get(KMS_KEY),
        "BucketKeyEnabled": _yes(BUCKET_KEY) or None,
        "RequestPayer": "requester" if _yes(REQUESTER_PAYS) else None,
        "ACL": _one_of(ACL, get_args(Acl)),
    }
    if (found["SSEKMSKeyId"] or found["BucketKeyEnabled"]) and not str(encryption or "").startswith("aws:kms"):
        raise BadInputError(f"{KMS_KEY} and {BUCKET_KEY} need {ENCRYPTION}=aws:kms (store.encryption)")
    return {name: value for name, value in found.items() if value}


def add_headers(client: Any) -> None:
    """Let a client's requests carry them, each where its operation knows it; copies and parts included."""
    carried = parameters()

    def add(params: dict[str, Any], model: Any, **_: Any) -> None:
        known = model.input_shape.members if model.input_shape else {}
        params.update({name: value for name, value in carried.items() if name in known and name not in params})

    if carried:
        client.meta.events.register_first("before-parameter-build.s3", add)
    if not sends_checksums(client):
        client.meta.events.register_last("before-call.s3", _check_by_md5)


def sends_checksums(client: Any) -> bool:
    """Whether requests carry checksum headers; AWS_REQUEST_CHECKSUM_CALCULATION or the profile may say no."""
    return bool(client.meta.config.request_checksum_calculation != "when_required")


def _check_by_md5(model: Any, params: dict[str, Any], **_: Any) -> None:
    """Content-MD5, which servers compare since S3 began, in the place of a checksum that this one may not know."""
    body = params.get("body")
    if model.name not in _CHECKED_BY_MD5 or body is None:
        return
    digest = _md5_of(body)
    if digest is not None:
        params["headers"]["Content-MD5"] = digest
        params.get("context", {}).get("checksum", {}).pop("request_algorithm", None)


def _md5_of(body: bytes | bytearray | BinaryIO) -> str | None:
    """In base64; None where a stream cannot be read twice."""
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, (bytes, bytearray)):
        digest.update(body)
    elif hasattr(body, "seek") and hasattr(body, "tell"):
        start = body.tell()
        while chunk := body.read(_CHUNK_BYTES):
            digest.update(chunk)
        body.seek(start)
    else:
        return None
    return base64.b64encode(digest.digest()).decode()


def _one_of(name: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(name) or None
    if value is not None and value not in allowed:
        raise BadInputError(f"{name}={value}: not one of {', '.join(allowed)}")
    return value


def _yes(name: str) -> bool:
    value = os.environ.get(name, "").lower()
    if value not in (*_YES, *_NO):
        raise BadInputError(f"{name}={value}: write true or false")
    return value in _YES
