"""A bucket keeps the same promises as a folder: exactly one winner, trees whole or not at all, nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorapar.errors import IntegrityError
from lorapar.store import NotFoundError, Transfer, fetch_tree, open_store, put_tree, require_conditional_writes, verify
from lorapar.store.conditional import RECORD, ConditionalWrites, conditional_writes, try_conditional_writes

WRITERS, ROUNDS = 32, 20


def parts_left(s3_server, bucket):
    """Uploads that were begun in parts and neither finished nor aborted."""
    return s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def test_written_is_read_and_listed_in_order(store):
    for key in ("b/two", "a", "b/one", "empty"):
        store.write(key, b"" if key == "empty" else key.encode())
    assert store.read("b/one") == b"b/one"
    assert [(info.key, info.size_bytes) for info in store.list()] == [
        ("a", 1),
        ("b/one", 5),
        ("b/two", 5),
        ("empty", 0),
    ]
    assert [info.key for info in store.list("b/t")] == ["b/two"]
    assert store.exists("empty")
    assert not store.exists("b")
    with pytest.raises(NotFoundError, match="prefix/c: there is no such object"):
        store.read("c")
    store.delete_all(["a", "b/one", "nothing"])
    store.delete("nothing")
    assert [info.key for info in store.list()] == ["b/two", "empty"]


def test_known_agrees_with_the_listing_however_many_are_asked_for(store):
    there = [f"cas/{number:04d}" for number in range(0, 40, 2)]
    for key in there:
        store.write(key, key.encode())
    for asked in ([*there[:3], "cas/0001"], [f"cas/{number:04d}" for number in range(40)]):
        found = store.known(asked)
        assert sorted(found) == [key for key in sorted(asked) if key in there]
        listed = {info.key: info for info in store.list() if info.key in found}
        assert {key: (info.size_bytes, info.version) for key, info in found.items()} == {
            key: (info.size_bytes, info.version) for key, info in listed.items()
        }


def test_of_32_writers_exactly_one_wins_each_round(store):
    stores = [open_store(store.address) for _ in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(ROUNDS):
            start = threading.Barrier(WRITERS)

            def claim(writer, key=f"round-{number}", start=start):
                start.wait()
                return stores[writer].write_if_absent(key, str(writer).encode())

            won = list(pool.map(claim, range(WRITERS)))
            assert sum(won) == 1
            assert store.read(f"round-{number}") == str(won.index(True)).encode()


def test_of_8_that_swap_a_version_each_is_replaced_once(store):
    store.write("count", b"0")

    def add_one(_):
        own = open_store(store.address)
        while True:
            data, version = own.read_versioned("count")
            if own.write_if_unchanged("count", str(int(data) + 1).encode(), version):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(8)))
    assert store.read("count") == b"8"
    assert not store.write_if_unchanged("nothing", b"1", store.read_versioned("count")[1])
    assert not store.exists("nothing")


def test_tree_goes_up_and_comes_down_and_a_second_call_moves_nothing(store, tree, tmp_path, s3_server, s3_bucket):
    manifest = put_tree(store, tree)
    fetch_tree(store, manifest, tmp_path / "copy")
    assert verify(tmp_path / "copy") == manifest
    before = {info.key: info.modified for info in store.list("cas/")}
    assert len(before) == len({entry.sha256 for entry in manifest.files.values()})
    time.sleep(1.1)  # times in a listing are whole seconds
    put_tree(store, tree)
    assert {info.key: info.modified for info in store.list("cas/")} == before
    assert not parts_left(s3_server, s3_bucket)


def test_renewed_content_keeps_its_bytes_and_is_young(store, tree):
    manifest = put_tree(store, tree)
    key = f"cas/{manifest.files['large.bin'].sha256}"
    before = store.known([key])[key]
    time.sleep(1.1)
    store.renew(key)
    after = store.known([key])[key]
    assert after.modified > before.modified
    assert after.size_bytes == before.size_bytes


def test_the_server_refuses_bytes_that_are_not_those_recorded(store, tmp_path):
    (tmp_path / "file").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="prefix/a: what was sent is not what was recorded"):
        store.upload_all([Transfer(tmp_path / "file", "a", 7, "0" * 64)])
    assert not store.exists("a")


def test_large_file_changed_since_it_was_sealed_is_refused(store, tree):
    with (tree / "large.bin").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(IntegrityError, match=r"large\.bin: its bytes are not those"):
        put_tree(store, tree)


def test_damaged_content_is_refused(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    entry = manifest.files["deep/3.bin"]
    store.write(f"cas/{entry.sha256}", bytes(entry.size_bytes))
    with pytest.raises(IntegrityError, match=f"cas/{entry.sha256}: its bytes are not those"):
        fetch_tree(store, manifest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.rglob(".lorapar-*")), "no scratch file is left"


def test_a_file_gone_since_it_was_sealed_is_named(store, tree):
    (tree / "large.bin").unlink()
    with pytest.raises(IntegrityError, match=r"large\.bin: named in the manifest but missing"):
        put_tree(store, tree)


UPLOAD = """
import os
import sys
from pathlib import Path
from lorapar.store import open_store, put_tree
from lorapar.cli import on_sigterm
import signal
signal.signal(signal.SIGTERM, on_sigterm)
signal.signal(signal.SIGINT, signal.default_int_handler)
def say(count):
    os.write(1, b"moving\\n")  # one write: print() writes text and line end apart, and threads call this
store = open_store(sys.argv[1])
upload_all = store.upload_all
store.upload_all = lambda transfers, moved=None: upload_all(transfers, say)
put_tree(store, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_upload_leaves_nothing_half_visible(store, tmp_path, s3_server, s3_bucket, how):
    from lorapar.store import seal
    from lorapar.store.artifact import file_sha256

    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "large.bin").write_bytes(os.urandom(300_000_000))
    seal(folder, "test.big")
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, store.address, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"moving\n"
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode != 0
    whole = {f"cas/{file_sha256(folder / 'large.bin')}": 300_000_000}
    left = {item.key: item.size_bytes for item in store.list()}
    assert left in ({}, whole), "on a busy machine the whole file may have arrived before the signal did"
    assert not parts_left(s3_server, s3_bucket)


def test_conditional_writes_are_tried_once_and_remembered(store):
    require_conditional_writes(store, "aliases")
    known = ConditionalWrites.model_validate_json(store.read(RECORD))
    assert known.honoured
    assert known.endpoint == store.endpoint
    assert [info.key for info in store.list()] == [RECORD], "the scratch object is gone"
    store.write(RECORD, known.model_copy(update={"why": "remembered"}).model_dump_json().encode())
    assert conditional_writes(store).why == "remembered"
    store.write(RECORD, known.model_copy(update={"endpoint": "http://elsewhere"}).model_dump_json().encode())
    assert conditional_writes(store).why == try_conditional_writes(store).why, "another server is tried again"


def test_doctor_says_what_an_address_can_do(store, cli, s3_server, monkeypatch):
    well = cli("doctor", "--store", store.address)
    assert well.returncode == 0, well.stdout
    message = " ".join(well.stdout.split())
    assert "can be read and written" in message
    assert "of eight writers that raced one won" in message
    ill = cli("doctor", "--store", "s3://no-such-bucket/x")
    assert ill.returncode == 3
    assert "no such bucket" in " ".join(ill.stdout.split())


def test_folder_marks_of_consoles_are_no_objects(store, s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="prefix/folder/", Body=b"")
    store.write("folder/file", b"x")
    assert [info.key for info in store.list()] == ["folder/file"]
