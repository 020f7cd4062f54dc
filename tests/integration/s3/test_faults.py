"""Connections that break in every way networks know: nothing is lost, nothing is corrupt, and what is said is true."""

import itertools
import os
import random
import subprocess
import threading
import time

import pytest

from lorapar.errors import IntegrityError, StorageError
from lorapar.store import Transfer, fetch_tree, open_store, put_tree, seal, verify
from tests.integration.conftest import use_identity
from tests.integration.fault_proxy import Fault, FaultProxy, answer

KINDS = ("latency", "reset upload", "reset download", "truncate", "answer")


def through(proxy, s3_server, monkeypatch, address):
    """The store, reached by way of the proxy."""
    use_identity(monkeypatch, s3_server.environment(endpoint=proxy.endpoint))
    return open_store(address)


def sometimes(kind, seed=0):
    """A plan: two of three connections suffer the fault, somewhere in their first megabyte."""
    rng, lock = random.Random(seed), threading.Lock()

    def plan():
        with lock:
            if rng.random() < 0.33:
                return Fault()
            if kind == "answer":
                return answer("503 Slow Down", "SlowDown", "Please reduce your request rate.")
            return Fault(kind, after_bytes=rng.randrange(1_000_000), seconds=0.01)

    return plan


@pytest.fixture
def small_tree(tmp_path):
    """Twenty files of up to 400 KB, sealed."""
    folder = tmp_path / "tree"
    folder.mkdir()
    rng = random.Random(1)
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(rng.randbytes(20_000 * number))
    seal(folder, "test.tree")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_trees_survive(s3_server, s3_address, small_tree, tmp_path, monkeypatch, kind):
    with FaultProxy(s3_server.port, sometimes(kind)) as proxy:
        store = through(proxy, s3_server, monkeypatch, s3_address)
        manifest = put_tree(store, small_tree)
        fetch_tree(store, manifest, tmp_path / "copy")
        assert proxy.faults[kind], "the proxy did nothing"
    assert verify(tmp_path / "copy") == manifest


@pytest.mark.parametrize("kind", ["reset upload", "reset download", "answer"])
def test_of_writers_on_a_broken_network_exactly_one_wins(s3_server, s3_address, monkeypatch, kind):
    """An answer that is lost makes boto3 ask again, and find its own object there: that is a win all the same."""
    with FaultProxy(s3_server.port, lambda: next(plan)) as proxy:
        broken = Fault(kind, after_bytes=40) if kind != "answer" else answer("503 Slow Down", "SlowDown", "Slow.")
        plan = itertools.cycle([broken, Fault(kind, after_bytes=900) if kind != "answer" else broken, Fault()])
        store = through(proxy, s3_server, monkeypatch, s3_address)
        for number in range(10):
            won = [store.write_if_absent(f"round-{number}", writer) for writer in (b"first", b"second", b"third")]
            assert won == [True, False, False]
            assert open_store(s3_address).read(f"round-{number}") == b"first"
        assert proxy.faults[kind]


def test_damage_on_the_way_down_is_noticed(s3_server, s3_address, tmp_path, monkeypatch):
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(500_000))
    seal(folder, "test")
    manifest = put_tree(open_store(s3_address), folder)
    with FaultProxy(s3_server.port, lambda: Fault("damage", after_bytes=300_000)) as proxy:
        store = through(proxy, s3_server, monkeypatch, s3_address)
        sha256 = manifest.files["file"].sha256
        with pytest.raises(IntegrityError, match=f"{s3_address}/cas/{sha256}: "):
            fetch_tree(store, manifest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    fetch_tree(open_store_directly(s3_server, monkeypatch, s3_address), manifest, tmp_path / "copy")
    assert verify(tmp_path / "copy") == manifest


def open_store_directly(s3_server, monkeypatch, address):
    """The store without a proxy."""
    use_identity(monkeypatch, s3_server.environment())
    return open_store(address)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_server_restarts_half_way(s3_server, s3_address, tmp_path, monkeypatch, direction):
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000_000))
    seal(folder, "test")
    store = open_store(s3_address)
    manifest = put_tree(store, folder) if direction == "down" else None
    moving, done = threading.Event(), []

    def slow(count):
        moving.set()
        time.sleep(0.01)

    def work():
        original = store.upload_all if direction == "up" else store.download_all
        setattr(store, original.__name__, lambda transfers, moved=None: original(transfers, slow))
        done.append(
            put_tree(store, folder) if manifest is None else fetch_tree(store, manifest, tmp_path / "copy") or manifest
        )

    thread = threading.Thread(target=work)
    thread.start()
    assert moving.wait(30)
    s3_server.kill()
    s3_server.start()
    thread.join(120)
    assert done, "the transfer did not survive the restart"
    fetch_tree(open_store(s3_address), done[0], tmp_path / "again")
    assert verify(tmp_path / "again") == done[0]


def test_a_copy_outlasts_a_server_that_is_ill_for_a_while(s3_server, s3_address, tmp_path, monkeypatch):
    """One that has just started answers 500 for some seconds; boto3 is told not to ask again, so the copy must."""
    began: list[float] = []

    def plan():
        if proxy.faults["none"] == 0:  # the first contact
            return Fault()
        began.append(time.monotonic())
        return (
            answer("500 Internal Server Error", "InternalError", "Try again.")
            if began[-1] < began[0] + 1.5
            else Fault()
        )

    files = [tmp_path / f"{number}.bin" for number in range(20)]
    for file in files:
        file.write_bytes(os.urandom(10_000))
    with FaultProxy(s3_server.port, plan) as proxy:
        use_identity(monkeypatch, s3_server.environment(endpoint=proxy.endpoint) | {"AWS_MAX_ATTEMPTS": "1"})
        open_store(s3_address).upload_all(Transfer(file, file.name, 10_000) for file in files)
        assert proxy.faults["answer"], "the proxy did nothing"
    direct = open_store_directly(s3_server, monkeypatch, s3_address)
    assert [direct.read(file.name) for file in files] == [file.read_bytes() for file in files]


def test_full_local_disk(s3_server, s3_address, small_tree, tmp_path):
    """A file system of 2 MB: the message names the file, the exit code is that of storage, and room makes it work."""
    manifest = put_tree(open_store(s3_address), small_tree)
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(StorageError, match=f"{disk}/.*the disk is full"):
            fetch_tree(open_store(s3_address), manifest, disk / "copy")
        assert not (disk / "copy").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        fetch_tree(open_store(s3_address), manifest, disk / "copy")
        assert verify(disk / "copy") == manifest
    finally:
        subprocess.run(["umount", disk], check=True)
