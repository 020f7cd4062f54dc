"""Check that the object store takes, gives back and refuses what it should: `python check_store.py s3://BUCKET/PREFIX`.

Writes one small object under PREFIX/helm-test/, reads it, asks for a second write-if-absent (which must be refused, or
aliases could be lost) and deletes it.
"""

import sys
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from waiting import Waiting, arguments, in_words, s3_endpoint

from lorapar.errors import BadInputError
from lorapar.store import S3Address, parse_address
from lorapar.store.s3_headers import add_headers

# Two attempts end before the pod's deadline, even where packets are dropped.
QUICK = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2, "mode": "standard"})
LOOK_AT = (
    "look whether objectStore.endpoint is right, whether its server runs, and whether the NetworkPolicies let this pod "
    "through (networkPolicy.objectStore and objectStorePorts)"
)
NO_ROOM = (
    "Where nothing was ever written to this bucket, its server has no room for another one: Kubeflow's own SeaweedFS "
    "has 8 volumes, and its bucket mlpipeline takes them all; make objectStore.address a prefix of it, such as "
    "s3://mlpipeline/lorapar, or start the server with -volume.max=0"
)


def check(bucket: str, prefix: str) -> str:
    """What was found, in words; raises where the store refused something it must do."""
    client = boto3.client("s3", config=QUICK)
    add_headers(client)  # what the bucket asks of every request: encryption, who pays
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
    (address,) = arguments(__doc__, 1)
    with Waiting(address, LOOK_AT):
        try:
            where = parse_address(address)
            if not isinstance(where, S3Address):
                raise BadInputError("no s3:// address")
            print(f"{address}: {check(where.bucket, where.prefix)}")
        except ClientError as error:
            first = error.operation_name == "PutObject" and error.response["Error"]["Code"] == "InternalError"
            print(f"{address}: {error}{f' {NO_ROOM}' if first else ''}", file=sys.stderr)
            return 1
        except BotoCoreError as error:
            print(f"{address}: {in_words(error, s3_endpoint())}; {LOOK_AT}", file=sys.stderr)
            return 1
        except (ValueError, BadInputError) as error:
            print(f"{address}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
