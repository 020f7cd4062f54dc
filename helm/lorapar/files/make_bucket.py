"""Make a bucket where it is missing: `python make_bucket.py BUCKET`. Waits up to five minutes for the server."""

import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

WAIT_SECONDS = 300
OURS = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
# The server said no: waiting does not help.
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName")


def make_bucket(bucket: str) -> str:
    """`made` or `was there`."""
    client = boto3.client("s3")
    region = client.meta.region_name
    # AWS takes every region but its first as a constraint; other servers take any or ignore it.
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region not in (None, "us-east-1") else {}
    try:
        client.create_bucket(Bucket=bucket, **place)
    except ClientError as error:
        if error.response["Error"]["Code"] in OURS:
            return "was there"
        raise
    return "made"


def main() -> int:
    bucket = sys.argv[1]
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            print(f"bucket {bucket}: {make_bucket(bucket)}")
            return 0
        except (BotoCoreError, ClientError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
            if code in REFUSED or time.monotonic() > deadline:
                print(f"bucket {bucket}: {error}", file=sys.stderr)
                return 1
            print(f"bucket {bucket}: not yet: {error}", file=sys.stderr)
            time.sleep(3)


if __name__ == "__main__":
    sys.exit(main())
