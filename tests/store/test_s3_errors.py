"""What boto3 raises becomes one line with its exit code; the servers' real answers are in tests/integration/s3."""

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from s3transfer.exceptions import RetriesExceededError

from lorapar.errors import BadInputError, ExitCode, IntegrityError, UnreachableError
from lorapar.store import NotFoundError
from lorapar.store.base import DeniedError, UnansweredError, UnsupportedError
from lorapar.store.s3_errors import MismatchError, explain

WHERE, ENDPOINT = "s3://bucket/key", "https://s3.example"


def refused(code, message="", headers=None, attempts=0, status=400, operation="GetObject"):
    """What boto3 raises for an error answer."""
    metadata = {"HTTPHeaders": headers or {}, "RetryAttempts": attempts, "HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refused("NoSuchKey"), NotFoundError, "there is no such object"),
        (refused("NoSuchBucket"), UnreachableError, f"no such bucket at {ENDPOINT}"),
        (refused("PreconditionFailed"), IntegrityError, "was replaced meanwhile"),
        (refused("BadDigest"), MismatchError, "may not know checksums in requests"),
        (refused("AccessDenied"), DeniedError, "lack the right to GetObject"),
        (
            refused("AccessDenied", "User: arn:aws:iam::1:user/my-path-style-x is not authorized", status=403),
            DeniedError,
            "lack the right to GetObject",
        ),
        (refused("AccessDenied", "Request has expired"), UnreachableError, "clock is wrong"),
        (refused("ExpiredToken"), UnreachableError, "has expired"),
        (refused("PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}), UnreachableError, "eu-west-1"),
        (
            refused("TemporaryRedirect", "Please re-send", {"x-amz-bucket-region": "eu-west-1"}, status=307),
            UnreachableError,
            "is new and not every server knows it yet, or it lies in another region, eu-west-1; try again in a while",
        ),
        *(
            (refused(code, message, status=403), UnreachableError, "below it `addressing_style = virtual` into the AWS")
            for code, message in (
                ("SecondLevelDomainForbidden", "Please use virtual hosted style to access."),
                ("PathStyleDomainForbidden", "The bucket you are attempting to access must be addressed otherwise."),
                ("InvalidRequest", "Path-style requests are not supported."),
            )
        ),
        (
            refused("NotImplemented", "Server side encryption specified but KMS is not configured", status=501),
            UnsupportedError,
            "but KMS is not configured; look at store.encryption and store.kms_key_id",
        ),
        (
            refused("KMS.NotFoundException", "Invalid keyId 'x'", operation="PutObject"),
            UnreachableError,
            "to PutObject: KMS.NotFoundException Invalid keyId 'x'; look at store.encryption and store.kms_key_id",
        ),
        (refused("SlowDown", attempts=7, status=503), UnansweredError, "also after 8 attempts"),
        (refused("InternalError", "Try again.", status=500), UnansweredError, "to GetObject: InternalError Try again."),
        *(
            (
                refused("InternalError", "Try again.", status=500, operation=operation),
                UnansweredError,
                f"to {operation}: InternalError Try again; where nothing was ever written to this bucket, its server "
                "has no room for another one: Kubeflow's own SeaweedFS has 8 volumes",
            )
            for operation in ("PutObject", "CreateMultipartUpload")
        ),
        (refused("502", "Bad Gateway", status=502), UnansweredError, "to GetObject: 502 Bad Gateway"),
        (
            refused("MethodNotAllowed", "Not allowed.", status=405, operation="PutObject"),
            UnsupportedError,
            f"{ENDPOINT} does not allow PutObject (MethodNotAllowed); AWS_ENDPOINT_URL must be the address of the "
            "server's S3 API, not of its console or of a website (the server says: Not allowed.)",
        ),
        (
            refused("InvalidRequest", "Content-MD5 is missing", operation="PutObject"),
            UnsupportedError,
            f"{ENDPOINT} wants Content-MD5 with PutObject (Content-MD5 is missing); AWS_REQUEST_CHECKSUM_CALCULATION",
        ),
        (refused("NotImplemented", status=501), UnsupportedError, "does not know what was asked"),
        (boto.SSLError(endpoint_url=ENDPOINT, error="self-signed"), UnreachableError, "AWS_CA_BUNDLE"),
        (boto.ReadTimeoutError(endpoint_url=ENDPOINT), UnansweredError, "broke off, also after retries (ReadTimeout"),
        (boto.EndpointConnectionError(endpoint_url=ENDPOINT), UnansweredError, "cannot be reached"),
        (boto.NoCredentialsError(), UnreachableError, "no credentials were found"),
        (boto.PartialCredentialsError(provider="env", cred_var="secret"), UnreachableError, "missing: secret"),
        (
            boto.CredentialRetrievalError(provider="custom-process", error_msg=""),
            UnreachableError,
            "the credential_process of the AWS profile failed (it said nothing); run that command by hand",
        ),
        (
            boto.CredentialRetrievalError(provider="sso", error_msg="no\nlogin"),
            UnreachableError,
            "no credentials could be had by sso (no login)",
        ),
        (boto.InvalidRegionError(region_name="eu central"), BadInputError, "fix AWS_DEFAULT_REGION, AWS_REGION"),
        (boto.ParamValidationError(report="bad\nbucket"), BadInputError, "bad bucket"),
        (RetriesExceededError(refused("SlowDown", status=503)), UnansweredError, "slow down"),
        (RetriesExceededError(ConnectionResetError(104, "reset")), UnansweredError, "broke off"),
    ],
)
def test_each_failure_is_one_line_that_names_the_object(error, kind, message):
    found = explain(error, WHERE, ENDPOINT)
    assert type(found) is kind
    assert str(found).startswith(WHERE)
    assert message in str(found)
    assert "\n" not in str(found)
    assert found.exit_code != ExitCode.BUG


def test_a_credential_in_the_servers_words_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    for error in (refused("Odd", "key planted-secret-key"), boto.ProxyConnectionError(proxy_url="planted-secret-key")):
        assert "planted-secret-key" not in str(explain(error, WHERE, ENDPOINT))
