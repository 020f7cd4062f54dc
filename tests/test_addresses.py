"""Addresses of buckets, of access points and of folders."""

from pathlib import Path

import pytest

from lorapar.errors import BadInputError
from lorapar.store import S3Address, parse_address

POINT = "arn:aws:s3:eu-central-1:123456789012:accesspoint/team"


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://runs", "runs", ""),
        ("s3://runs/a/b/", "runs", "a/b"),
        ("s3://team-abc123-s3alias/a", "team-abc123-s3alias", "a"),
        (f"s3://{POINT}", POINT, ""),
        (f"s3://{POINT}/a/b", POINT, "a/b"),
        (f"s3://{POINT.replace('aws', 'aws-cn', 1)}/a", POINT.replace("aws", "aws-cn", 1), "a"),
    ],
)
def test_bucket_and_prefix(text, bucket, prefix):
    found = parse_address(text)
    assert found == S3Address(bucket, prefix)
    assert parse_address(str(found)) == found


def test_folder():
    assert parse_address("runs/store") == Path("runs/store")


@pytest.mark.parametrize(
    "text", ["s3://", "s3://B", "s3://arn:aws:s3:eu:12:bucket/x", "s3:/runs", "gs://runs", POINT, "arn:aws:s3:::runs"]
)
def test_what_is_no_address_is_reported(text):
    with pytest.raises(BadInputError, match=r"lorapar knows|cannot name a bucket"):
        parse_address(text)
