"""Make a bucket where it is missing: `python make_bucket.py BUCKET`.

Waits five minutes for the server, with a line every 30 s.
"""

import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from waiting import Waiting, arguments, in_words, limit_seconds, s3_endpoint

PAUSE_SECONDS = 3
# A hanging attempt ends soon, and the next one begins.
QUICK = Config(connect_timeout=10, read_timeout=10, retries={"total_max_attempts": 1, "mode": "standard"})
LOOK_AT = (
    "look whether objectStore.endpoint is right, whether its server runs, and whether the NetworkPolicies let this Job "
    "through (networkPolicy.objectStore and objectStorePorts); then run helm upgrade again"
)
OURS = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
# The server refused: waiting does not help.
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName")


def make_bucket(bucket: str) -> str:
    """`made` or `was there`."""
    client = boto3.client("s3", config=QUICK)
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
    (bucket,) = arguments(__doc__, 1)
    limit = limit_seconds(300)
    with Waiting(f"bucket {bucket}", LOOK_AT) as waiting:
        while True:
            try:
                print(f"bucket {bucket}: {make_bucket(bucket)}")
                return 0
            except (BotoCoreError, ClientError) as error:
                waiting.note(in_words(error, s3_endpoint()))
                if isinstance(error, ClientError) and error.response["Error"]["Code"] in REFUSED:
                    print(f"bucket {bucket}: {error}", file=sys.stderr)
                    return 1
            if waiting.seconds + PAUSE_SECONDS >= limit:
                print(f"bucket {bucket}: {waiting.given_up()}", file=sys.stderr)
                return 1
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
