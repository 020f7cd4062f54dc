"""What the project asks of an S3 server, asked of the one its tests use; another server can be judged by these too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError


def put(client, bucket, body, **condition):
    """Whether a put with a condition went through."""
    try:
        client.put_object(Bucket=bucket, Key="one", Body=body, **condition)
    except ClientError as error:
        if error.response["Error"]["Code"] != "PreconditionFailed":
            raise
        return False
    return True


def test_conditional_writes_are_honoured(s3_server, s3_bucket):
    client = s3_server.client()
    assert put(client, s3_bucket, b"first", IfNoneMatch="*")
    assert not put(client, s3_bucket, b"second", IfNoneMatch="*")
    etag = client.get_object(Bucket=s3_bucket, Key="one")["ETag"]
    assert put(client, s3_bucket, b"third", IfMatch=etag)
    assert not put(client, s3_bucket, b"fourth", IfMatch=etag)
    assert client.get_object(Bucket=s3_bucket, Key="one")["Body"].read() == b"third"


def test_of_eight_that_race_one_wins(s3_server, s3_bucket):
    clients = [s3_server.client() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(
            pool.map(lambda pair: put(pair[1], s3_bucket, str(pair[0]).encode(), IfNoneMatch="*"), enumerate(clients))
        )
    assert sum(won) == 1
    body = s3_server.client().get_object(Bucket=s3_bucket, Key="one")["Body"].read()
    assert body == str(won.index(True)).encode()


def test_reader_may_not_write_and_stranger_may_not_read(s3_server, s3_bucket):
    s3_server.client("writer").put_object(Bucket=s3_bucket, Key="one", Body=b"data")
    assert s3_server.client("reader").get_object(Bucket=s3_bucket, Key="one")["Body"].read() == b"data"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3_server.client("reader").put_object(Bucket=s3_bucket, Key="two", Body=b"data")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3_server.client("stranger").get_object(Bucket=s3_bucket, Key="one")


def test_data_outlive_a_restart(s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="kept", Body=b"data")
    s3_server.kill()
    s3_server.start()
    assert s3_server.client().get_object(Bucket=s3_bucket, Key="kept")["Body"].read() == b"data"
