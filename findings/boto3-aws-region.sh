#!/usr/bin/env bash
# boto3 1.44.5.
#
# Guess: a client made without a region takes it from AWS_REGION, which Lambda, EKS and the AWS SDKs for other languages set
#   and read.
# Seen: only AWS_DEFAULT_REGION is read. With AWS_REGION=eu-west-1 alone a client for S3 is made without a word, for
#   us-east-1 and s3.amazonaws.com; a client for SQS, which has no such default, raises NoRegionError.
# What to do: set AWS_DEFAULT_REGION, or pass region_name.
#
# Prints what each variable comes to, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "boto3-aws-region.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet boto3==1.44.5
cd "$folder"
env -u AWS_PROFILE -u AWS_REGION -u AWS_DEFAULT_REGION AWS_EC2_METADATA_DISABLED=true \
  AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null venv/bin/python - <<'PYTHON'
import os
import sys

import boto3
from botocore.exceptions import NoRegionError


def region(service):
    try:
        return boto3.session.Session().client(service).meta.region_name
    except NoRegionError:
        return "NoRegionError"


seen = {}
for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
    os.environ[name] = "eu-west-1"
    seen[name] = region("s3"), region("sqs")
    del os.environ[name]
    print(f"{name}=eu-west-1: s3 {seen[name][0]}, sqs {seen[name][1]}")
expected = {"AWS_REGION": ("us-east-1", "NoRegionError"), "AWS_DEFAULT_REGION": ("eu-west-1", "eu-west-1")}
sys.exit(0 if seen == expected else 1)
PYTHON
