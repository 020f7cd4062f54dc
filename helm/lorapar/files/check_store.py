"""Check that the object store takes, gives back and refuses what it should: `python check_store.py s3://BUCKET/PREFIX`.

Writes one small object under PREFIX/helm-test/, reads it, asks for a second write-if-absent (which must be refused, or
aliases could be lost) and deletes it.
"""

import sys
import uuid

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def check(bucket: str, prefix: str) -> str:
    """What was found, in words; raises where the store refused something it must do."""
    client = boto3.client("s3")
    key = "/".join(part for part in (prefix, "helm-test", uuid.uuid4().hex) if part)
    client.put_object(Bucket=bucket, Key=key, Body=b"lorapar", IfNoneMatch="*")
    try:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        if body != b"lorapar":
            raise ValueError(f"{key} was read back as {body!r}")
        try:
            client.put_object(Bucket=bucket, Key=key, Body=b"second", IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                raise
        else:
            raise ValueError("the store ignores conditional writes: aliases need them")
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    return "written, read, protected against a second writer, deleted"


def main() -> int:
    address = sys.argv[1]
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    try:
        print(f"{address}: {check(bucket, prefix.strip('/'))}")
    except (BotoCoreError, ClientError, ValueError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
