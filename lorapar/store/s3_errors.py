"""Errors between lorapar and a bucket, each as one line that names the object, the cause and the remedy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from lorapar.errors import BadInputError, IntegrityError, LoraparError, UnreachableError
from lorapar.network import S3_VARIABLE, network_cause, proxy_refusal
from lorapar.redaction import redact
from lorapar.store import s3_headers
from lorapar.store.base import DeniedError, NotFoundError, UnansweredError, UnsupportedError

MISSING = ("NoSuchKey", "404", "NotFound")
TAKEN = ("PreconditionFailed", "412")
CONFLICT = ("ConditionalRequestConflict", "409")

_SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
_MISMATCH = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess", "AccessDeniedException")
_WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "CopyObject")
_RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    **dict.fromkeys(_WRITES, "s3:PutObject"),
    "CopyObject": "s3:GetObject and s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
_OF_AN_OBJECT = (
    "GetObject",
    "HeadObject",
    "CopyObject",
    "UploadPart",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
)
_OTHER_REGION = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_ELSEWHERE_YET = ("TemporaryRedirect", "Redirect", "307")
_HOST_STYLE = re.compile(r"virtual[- ]?host|(second|third).?level.?domain|path.?style", re.IGNORECASE)
"""How servers say that they want the bucket in the host's name (Alibaba's and Tencent's object stores).

Not where access is denied: such messages name users and buckets, which may be called anything.
"""
_UNKNOWN = ("NotImplemented", "501")
_NOT_ALLOWED = ("MethodNotAllowed", "405")
_NO_MD5 = ("MissingContentMD5",)
_UNSUPPORTED = (*_UNKNOWN, *_NOT_ALLOWED, *_NO_MD5)
_WITHOUT_KEYS = "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
UNSIGNED = "lorapar-unsigned"
"""Marks an error whose request had no signature because there were no credentials."""
_CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"
_NO_ROOM = (
    "; where nothing was ever written to this bucket, its server has no room for another one: Kubeflow's own SeaweedFS "
    "has 8 volumes, and its bucket mlpipeline takes them all; use a prefix of it, such as s3://mlpipeline/lorapar, or "
    "start the server with -volume.max=0"
)
"""The usual cause of a write's InternalError in the store that Kubeflow ships (2.17.0)."""
_AILING = (500, 502, 503, 504)
"""Statuses of a server that is starting or overloaded, and of a load balancer without servers."""
_CAUSES = {
    ("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"): (
        "wrong key: {endpoint} does not know the access key in use; check AWS_ACCESS_KEY_ID or the profile"
    ),
    ("SignatureDoesNotMatch", "InvalidSignatureException"): (
        "wrong key: the secret key in use does not fit its access key; check AWS_SECRET_ACCESS_KEY or the profile"
    ),
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "SecurityTokenExpired", "TokenExpired"): (
        "the session token has expired; sign in again or renew the credentials, then run the same command again"
    ),
    ("InvalidToken", "InvalidIdentityToken", "InvalidIdentityTokenException"): (
        "the session token is not accepted; check AWS_SESSION_TOKEN or the web identity of the service account"
    ),
    ("SlowDown", "503", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "429"): (
        "{endpoint} asks to slow down ({code}), also after {attempts}; try again later"
    ),
    ("InsufficientStorage", "507", "XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity"): (
        "the object store is full ({code}); make room or raise the quota, then run the same command again"
    ),
    ("InvalidObjectState",): "the object is archived; restore it, or copy it to another storage class, and try again",
    _UNKNOWN: (
        "{endpoint} does not know what was asked ({message}); for an old server set "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    ),
    _NOT_ALLOWED: (
        "{endpoint} does not allow {operation} ({code}); AWS_ENDPOINT_URL must be the address of the server's S3 API, "
        "not of its console or of a website"
    ),
    _NO_MD5: (
        "{endpoint} wants Content-MD5 with {operation} ({message}); "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required sends it in place of newer checksums"
    ),
    ("RequestTimeout", "IncompleteBody"): "{endpoint} did not get the whole request, also after {attempts}; try again",
}
_CAUSE_OF = {code: text for codes, text in _CAUSES.items() for code in codes}


@contextmanager
def s3_errors(where: str, endpoint: str) -> Iterator[None]:
    """Turn boto3's errors into a LoraparError; `where` is the requested object or bucket."""
    try:
        yield
    except RecursionError:  # botocore asks for the bucket's region, is redirected, and asks again (1.43)
        raise UnreachableError(redact(f"{where}: {elsewhere(endpoint, '')}")) from None
    except _raised_by_libraries() as error:
        raise explain(error, where, endpoint) from None


def elsewhere(endpoint: str, location: str) -> str:
    """The message about a server that redirects requests, such as to its own https."""
    to = f" to {location}" if location else " and does not say where"
    return f"{endpoint} sends requests elsewhere{to}; set AWS_ENDPOINT_URL to the address that answers itself"


def _raised_by_libraries() -> tuple[type[Exception], ...]:
    """The errors of boto3 and its libraries. Looked up only after an error; it does not import the transfer manager,
    which most tasks do not need.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    named = (("boto3.exceptions", "Boto3Error"), ("s3transfer.exceptions", "RetriesExceededError"))
    others = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (BotoCoreError, ClientError, *others)


def code_of(error: Any) -> str:
    """The error code of a ClientError, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: Exception, where: str, endpoint: str) -> LoraparError:
    """The error for a person, without any credential that the library put into its message."""
    from botocore.exceptions import ClientError

    inner = getattr(error, "last_exception", None)
    if isinstance(inner, Exception):
        return explain(inner, where, endpoint)
    if isinstance(error, ClientError):
        return _refused(error, where, endpoint)
    return _unanswered(error, where, endpoint)


def refused_in_batch(where: str, endpoint: str, entry: Mapping[str, Any]) -> LoraparError:
    """What a server says of one object among many that it was to delete, as it would be said of that one alone."""
    from botocore.exceptions import ClientError

    return explain(ClientError({"Error": dict(entry)}, "DeleteObject"), where, endpoint)


def _refused(error: Any, where: str, endpoint: str) -> LoraparError:
    """The error for a server's answer."""
    message = _one_line(error.response.get("Error", {}).get("Message", ""))
    code = meant(code_of(error), message)
    if code in MISSING and (code == "NoSuchKey" or error.operation_name in _OF_AN_OBJECT):
        return NotFoundError(f"{where}: there is no such object")
    if code == "NoSuchBucket":
        cause = f"there is no such bucket at {endpoint}; create it or fix the address"
        return UnreachableError(redact(f"{where}: {cause}{_server_words(message, cause)}"))
    if code in _MISMATCH:
        return MismatchError(redact(f"{where}: {_mismatch(code, message, endpoint)}"))
    if code in TAKEN:
        return IntegrityError(f"{where}: was replaced meanwhile; run the same command again")
    if error.response.get("Error", {}).get(UNSIGNED):
        return DeniedError(
            redact(f"{where}: {_WITHOUT_KEYS}{_server_words(message or code, '')}{_unlike_s3(error, endpoint)}")
        )
    if astray := _misdirected(error, code, message, endpoint):
        return UnreachableError(redact(f"{where}: {astray}{_server_words(message, astray)}"))
    if code in _DENIED:
        return DeniedError(redact(f"{where}: {_denied(error.operation_name, message)}{_unlike_s3(error, endpoint)}"))
    metadata = error.response.get("ResponseMetadata", {})
    if proxy := proxy_refusal(metadata.get("HTTPStatusCode", 0), endpoint):
        return UnreachableError(redact(f"{where}: {proxy}"))
    attempts = metadata.get("RetryAttempts", 0) + 1
    text = _CAUSE_OF.get(code, "{endpoint} refused to {operation}: {code} {message}").format(
        endpoint=endpoint,
        operation=error.operation_name,
        code=code,
        message=message,
        attempts=f"{attempts} attempts" if attempts > 1 else "one attempt",
    )
    if code.startswith("KMS.") or re.search(r"\bKMS\b", message):
        text = f"{endpoint} refused to {error.operation_name}: {code} {message}".rstrip(". ")
    text += _keys(code, message)
    if code == "InternalError" and error.operation_name in _WRITES:
        text = text.rstrip(". ") + _NO_ROOM
    text += _server_words(message, text) + _unlike_s3(error, endpoint)
    kind = UnansweredError if metadata.get("HTTPStatusCode") in _AILING else UnreachableError
    return (UnsupportedError if code in _UNSUPPORTED else kind)(redact(f"{where}: {text}"))


def _misdirected(error: Any, code: str, message: str, endpoint: str) -> str | None:
    """Why a request that is right went to the wrong place or at the wrong time; None where it did not."""
    if code in _SKEWED:
        return f"this machine's clock is wrong{_skew(error)}; set the time, then try again"
    if code in _OTHER_REGION:
        return f"the bucket lies in another region{_region(error)}; set AWS_DEFAULT_REGION to it"
    if code in _ELSEWHERE_YET:
        return (
            "the bucket is new and not every server knows it yet, or it lies in another region"
            f"{_region(error)}; try again in a while, or set AWS_DEFAULT_REGION to its region"
        )
    if code not in _DENIED and _HOST_STYLE.search(f"{code} {message}"):
        return (
            f"{endpoint} wants the bucket in the host's name: write `s3 =` and below it `addressing_style = virtual` "
            "into the AWS profile (AWS_CONFIG_FILE names its file)"
        )
    return None


def _keys(code: str, message: str) -> str:
    """Which setting is about the key that objects lie under, where a server complains of one."""
    if re.search(
        r"form of server.?side encryption|customer.provided key|customer key|sse-?c\b", message, re.IGNORECASE
    ):
        return f"; the object lies under a key of its owner: set {s3_headers.CUSTOMER_KEY} to it"
    if code.startswith("KMS.") or re.search(r"\bKMS\b", message):
        return (
            f"; look at store.encryption and store.kms_key_id ({s3_headers.ENCRYPTION}, {s3_headers.KMS_KEY}): "
            "AES256 needs no service of keys"
        )
    return ""


def meant(code: str, message: str) -> str:
    """AWS's code where a server reports expired credentials as denied access, or a missing MD5 as a bad request."""
    if code in ("InvalidRequest", "InvalidArgument") and re.search(r"content-?md5", message, re.IGNORECASE):
        return "MissingContentMD5"
    expired = re.search(r"(request|token|session|credential)\w* (?:has|have|is) expired", message, re.IGNORECASE)
    if code not in _DENIED or expired is None:
        return code
    return "RequestExpired" if expired[1].lower() == "request" else "ExpiredToken"


class MismatchError(UnreachableError):
    """The server computed another checksum than the one sent, or does not know that kind of checksum."""


def _mismatch(code: str, message: str, endpoint: str) -> str:
    advice = "something between here and there changes what is sent"
    if os.environ.get(_CHECKSUMS, "").lower() != "when_required":
        advice = f"it may not know checksums in requests: set {_CHECKSUMS}=when_required"
    return f"{endpoint} took what was sent for something else ({code}); {advice}{_server_words(message, '')}"


def _unlike_s3(error: Any, endpoint: str) -> str:
    """A hint where a status stands for a code: the answer is no S3 error. Answers to HEAD never have one."""
    code = code_of(error)
    if not code.isdigit() or error.operation_name.startswith("Head") or int(code) in (*_AILING[1:], 429):
        return ""
    return f"; that is no answer of an S3 server: a proxy, a sign-in page or another service may stand at {endpoint}"


def _denied(operation: str, message: str) -> str:
    """The missing right as policies name it; a policy that denies is reported differently from a missing right."""
    right = _RIGHTS.get(operation, f"s3:{operation}")
    named = re.search(r"perform:? ([a-z0-9-]+:\w+)", message)
    if named and named[1] not in right:
        right = named[1]
    text = f"access denied: the credentials in use lack the right to {operation} ({right})"
    if re.search(r"object lock|retention|legal hold", message, re.IGNORECASE):
        text = "access denied: the object is locked until its retention ends, so it is neither replaced nor removed"
    elif not right.startswith(f"s3:{operation}") and named:
        pass  # a key of KMS, tags: the missing right is known
    elif re.search(r"explicit|polic", message, re.IGNORECASE) and not re.search(r"no [\w-]+ policy allows", message):
        text = f"access denied: a policy refuses {operation} ({right})"
        if operation in _WRITES and not os.environ.get(s3_headers.ENCRYPTION):
            text += f"; it may ask for an encryption header: set store.encryption or {s3_headers.ENCRYPTION}"
        elif operation in _WRITES and not os.environ.get(s3_headers.ACL):
            text += f"; it may ask for an ACL: set store.acl or {s3_headers.ACL}"
    if re.search(r"requester|paid|payer", message, re.IGNORECASE) and not os.environ.get(s3_headers.REQUESTER_PAYS):
        text += f"; to pay for requests set store.requester_pays or {s3_headers.REQUESTER_PAYS}=true"
    if owner := os.environ.get(s3_headers.OWNER):
        text += f"; or the bucket does not belong to {owner}, which {s3_headers.OWNER} expects"
    if operation in ("GetObject", "HeadObject"):
        text += "; without s3:ListBucket an object that is not there is answered like this too"
    return f"{text}; docs/storage.md#rights lists rights by role{_server_words(message, '')}"


def _server_words(message: str, text: str) -> str:
    """The server's own message, unless the text has it already."""
    return f" (the server says: {message})" if message and message not in text else ""


def _unanswered(error: Exception, where: str, endpoint: str) -> LoraparError:
    """The error where there was no answer, or no request because something is missing here."""
    from botocore import exceptions as boto

    asked = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url") or endpoint))
    if asked.netloc != urlsplit(endpoint).netloc:  # the provider of credentials
        endpoint = f"{asked.scheme}://{asked.netloc}"
    in_the_way = network_cause(error, endpoint, S3_VARIABLE)
    if in_the_way is not None:
        cause = in_the_way
        if "proxy" in cause:  # which may recover, like a server
            return UnansweredError(redact(f"{where}: {cause}"))
    elif isinstance(error, boto.SSLError):
        cause = f"the certificate of {endpoint} is not trusted; name the authority's file in AWS_CA_BUNDLE"
    elif isinstance(error, (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)):
        cause = f"{endpoint} cannot be reached{_reason(error)}; check the network and AWS_ENDPOINT_URL"
        return UnansweredError(redact(f"{where}: {cause}"))
    elif isinstance(error, (boto.HTTPClientError, boto.IncompleteReadError, ConnectionError, TimeoutError)):
        cause = f"the connection to {endpoint} broke off, also after retries ({type(error).__name__}{_reason(error)})"
        return UnansweredError(redact(f"{where}: {cause}"))
    elif isinstance(error, boto.InvalidRegionError):
        return BadInputError(redact(f"{where}: {_one_line(error)}; fix AWS_DEFAULT_REGION, AWS_REGION or the profile"))
    elif isinstance(error, boto.NoCredentialsError):
        cause = _WITHOUT_KEYS
    elif isinstance(error, (boto.ChecksumError, boto.FlexibleChecksumError)):
        return IntegrityError(f"{where}: arrived damaged, its checksum is another one; run the same command again")
    elif isinstance(error, (boto.ParamValidationError, boto.UnknownEndpointError)):
        return BadInputError(redact(f"{where}: not an address that can be used: {_one_line(error)}"))
    else:  # profiles, single sign-on, web identities: botocore's own message says which
        cause = credentials_cause(error)
    return UnreachableError(redact(f"{where}: {cause}"))


def credentials_cause(error: Exception) -> str:
    """Why a program or service gave no credentials; for other errors, the library's own message."""
    from botocore.exceptions import CredentialRetrievalError, ProfileNotFound

    if isinstance(error, ProfileNotFound):
        return f"{_one_line(error)}; fix AWS_PROFILE, or name the file that has it in AWS_CONFIG_FILE"
    if "SSO" in type(error).__name__:
        return f"{_one_line(error)}; sign in with `aws sso login`"
    if not isinstance(error, CredentialRetrievalError):
        return _one_line(error)
    provider, reason = (str(error.kwargs.get(key, "")) for key in ("provider", "error_msg"))
    if provider != "custom-process":
        return f"no credentials could be had by {provider} ({_one_line(reason) or 'without a reason'})"
    return (
        f"no credentials: the credential_process of the AWS profile failed ({_one_line(reason) or 'it said nothing'}); "
        "run that command by hand"
    )


def _reason(error: Exception) -> str:
    """The system's message inside a library's message, such as `Connection refused`."""
    text = " ".join(str(part) for part in (error, getattr(error, "kwargs", {}).get("error", ""), error.__cause__ or ""))
    found = re.search(r"\[Errno -?\d+\] ([A-Za-z ]+)", text) or re.search(r"(timed out|Timeout)", text)
    return f" ({found[1].strip()})" if found else ""


def _skew(error: Any) -> str:
    """How far the clocks differ, by the date in the server's answer."""
    stamp = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        apart = (datetime.now(UTC) - parsedate_to_datetime(stamp)).total_seconds()
    except (TypeError, ValueError):
        return ""
    return f" (it is {abs(apart) / 60:.0f} minutes {'ahead' if apart > 0 else 'behind'})" if abs(apart) >= 60 else ""


def _region(error: Any) -> str:
    region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    region = region or error.response.get("Error", {}).get("Region")
    return f", {region}" if region else ""


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
