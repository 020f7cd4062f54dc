"""Headers that buckets may require of every request: encryption, payer, owner, tags; and MD5 for old servers.

Each is a setting of `store`, and a variable `LORAPAR_S3_...` for pods, tasks and commands without settings. They apply
to every bucket of the process: stores, registries, mirrors, models and data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote, urlencode

from lorapar.errors import BadInputError

ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
ACLS = ("bucket-owner-full-control",)
ENCRYPTION, KMS_KEY, BUCKET_KEY = "LORAPAR_S3_ENCRYPTION", "LORAPAR_S3_KMS_KEY_ID", "LORAPAR_S3_BUCKET_KEY"
REQUESTER_PAYS, ACL = "LORAPAR_S3_REQUESTER_PAYS", "LORAPAR_S3_ACL"
OWNER, STORAGE_CLASS, TAGS = "LORAPAR_S3_EXPECTED_OWNER", "LORAPAR_S3_STORAGE_CLASS", "LORAPAR_S3_TAGS"
CUSTOMER_KEY = "LORAPAR_S3_CUSTOMER_KEY"
"""The key of SSE-C, 32 bytes in base64; a secret, so never a setting."""
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_CHECKED_BY_MD5 = ("PutObject", "UploadPart", "DeleteObjects")
_CHUNK_BYTES = 1 << 20


SETTINGS = {
    "encryption": ENCRYPTION,
    "kms_key_id": KMS_KEY,
    "bucket_key": BUCKET_KEY,
    "requester_pays": REQUESTER_PAYS,
    "acl": ACL,
    "expected_owner": OWNER,
    "storage_class": STORAGE_CLASS,
    "tags": TAGS,
}
"""Settings of `store` and their variables."""
VARIABLES = (*SETTINGS.values(), CUSTOMER_KEY)
_CUSTOMER_KEY_BYTES = 32
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
_MOST_TAGS, _TAG_KEY_LETTERS, _TAG_VALUE_LETTERS = 10, 128, 256


def export_settings(section: Mapping[str, Any]) -> None:
    """Apply the settings of `store` to this process and its children; a setting that is not set leaves its variable."""
    for setting, name in SETTINGS.items():
        if value := section.get(setting):
            os.environ[name] = in_variable(value)


def in_variable(value: Any) -> str:
    """A setting as the value of its variable."""
    if isinstance(value, Mapping):
        return urlencode(value, quote_via=quote)
    return "true" if value is True else str(value)


def parameters() -> dict[str, Any]:
    """The parameters of requests, by boto3's names. Raises BadInputError naming the variable."""
    encryption = _one_of(ENCRYPTION, ENCRYPTIONS)
    found = {
        "ServerSideEncryption": encryption,
        "SSEKMSKeyId": os.environ.get(KMS_KEY),
        "BucketKeyEnabled": _yes(BUCKET_KEY) or None,
        "RequestPayer": "requester" if _yes(REQUESTER_PAYS) else None,
        "ACL": _one_of(ACL, ACLS),
        "ExpectedBucketOwner": _matching(OWNER, r"\d{12}", "the 12 digits of an AWS account"),
        "StorageClass": _storage_class(),
        "Tagging": _tags(),
        "SSECustomerKey": _customer_key(),
    }
    if (found["SSEKMSKeyId"] or found["BucketKeyEnabled"]) and not str(encryption or "").startswith("aws:kms"):
        raise BadInputError(f"{KMS_KEY} and {BUCKET_KEY} need {ENCRYPTION}=aws:kms (store.encryption)")
    if found["SSECustomerKey"] and encryption:
        raise BadInputError(f"{CUSTOMER_KEY} and {ENCRYPTION} (store.encryption) exclude each other; leave one out")
    return {name: value for name, value in (found | _that_goes_with(found)).items() if value}


def _that_goes_with(found: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that follow from others: the algorithm and digest of a key, and those of a copy's source."""
    key, owner, tags = found["SSECustomerKey"], found["ExpectedBucketOwner"], found["Tagging"]
    algorithm, digest = ("AES256", _md5_of(base64.b64decode(key))) if key else (None, None)
    return {
        "SSECustomerAlgorithm": algorithm,
        "SSECustomerKeyMD5": digest,
        "CopySourceSSECustomerAlgorithm": algorithm,
        "CopySourceSSECustomerKey": key,
        "CopySourceSSECustomerKeyMD5": digest,
        "ExpectedSourceBucketOwner": owner,
        "TaggingDirective": "REPLACE" if tags else None,
    }


def add_headers(client: Any) -> None:
    """Add the parameters to a client's requests, copies and parts included, where the operation has them."""
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
    """Send Content-MD5, which every server compares, in place of a checksum that this one may not know."""
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


def _matching(name: str, pattern: str, what: str) -> str | None:
    value = os.environ.get(name) or None
    if value is not None and not re.fullmatch(pattern, value):
        raise BadInputError(f"{name}={value}: not {what}")
    return value


def _storage_class() -> str | None:
    """The storage class; servers may have other names than AWS."""
    value = _matching(STORAGE_CLASS, r"[A-Z][A-Z0-9_-]*", "the name of a storage class, such as STANDARD_IA")
    if value in _ARCHIVES:
        raise BadInputError(f"{STORAGE_CLASS}={value}: what is archived cannot be read at once; GLACIER_IR can")
    return value


def _tags() -> str | None:
    """Tags as in the header: `team=nlp&cost=42`, with special characters as %XX."""
    text = os.environ.get(TAGS) or None
    if text is None:
        return None
    try:
        pairs = parse_qsl(text, strict_parsing=True, keep_blank_values=True)
    except ValueError:
        raise BadInputError(f"{TAGS}={text}: write KEY=VALUE&KEY=VALUE, what is no letter as %XX") from None
    if len(pairs) > _MOST_TAGS or len(dict(pairs)) < len(pairs):
        raise BadInputError(f"{TAGS}={text}: an object has at most {_MOST_TAGS} tags, each key once")
    for key, value in pairs:
        if not 0 < len(key) <= _TAG_KEY_LETTERS or len(value) > _TAG_VALUE_LETTERS:
            raise BadInputError(
                f"{TAGS}: tag '{key[:40]}': a key has 1 to {_TAG_KEY_LETTERS} letters, a value at most "
                f"{_TAG_VALUE_LETTERS}"
            )
    return urlencode(pairs, quote_via=quote)


def _customer_key() -> str | None:
    """The key as in the header; no message shows it."""
    text = (os.environ.get(CUSTOMER_KEY) or "").strip()
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b"?"
    if text and len(key) != _CUSTOMER_KEY_BYTES:
        raise BadInputError(f"{CUSTOMER_KEY}: not 32 bytes in base64; `openssl rand -base64 32` makes such a key")
    return text or None


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
