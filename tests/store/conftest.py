"""A store in a local folder, and a sealed folder to put into it."""

import pytest

from lorapar.store import open_store, s3_headers, seal
from tests.store.s3_in_memory import S3InMemory


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def tree(tmp_path):
    """A sealed folder of four files, two of them with equal bytes, one empty."""
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "deep" / "twin.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    (folder / "empty").touch()
    seal(folder, "test.tree")
    return folder


@pytest.fixture
def server(monkeypatch):
    """A server, and nothing in the environment but the way to it."""
    for name in s3_headers.VARIABLES:
        monkeypatch.setenv(name, "")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    with S3InMemory() as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FIRSTKEY00000001")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield made
