"""Small files to and from a bucket: one request each, whole or not at all, and few imports."""

import hashlib
import json
import subprocess
import sys

import pytest

from lorapar.errors import IntegrityError
from lorapar.store import Manifest, NotFoundError, fetch_tree, open_store, put_tree, seal
from lorapar.store.artifact import FileEntry
from lorapar.store.base import Transfer
from lorapar.store.s3_small import SMALL_BYTES
from lorapar.store.tree import content_key

A_TREE_THERE_AND_BACK = """
import json, sys
from pathlib import Path
from lorapar.store import fetch_tree, open_store, put_tree
store = open_store("s3://runs/x")
fetch_tree(store, put_tree(store, Path(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def folder(tmp_path):
    """An artifact of small files, one of them empty."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "rows.jsonl").write_text("{}\n")
    (made / "scores.json").write_text("[1, 2]")
    (made / "nothing").touch()
    seal(made, "rows")
    return made


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_files_of_a_tree_come_by_one_request_each(server, folder, tmp_path):
    store = open_store("s3://runs/x")
    manifest = put_tree(store, folder)
    server.requests.clear()
    fetch_tree(store, manifest, tmp_path / "back")
    assert (tmp_path / "back" / "scores.json").read_text() == "[1, 2]"
    assert (tmp_path / "back" / "nothing").read_bytes() == b""
    assert [request.method for request in server.requests] == ["GET"] * 3


def test_files_go_up_with_the_digest_that_was_recorded(server, folder):
    put_tree(open_store("s3://runs/x"), folder)
    puts = server.of("PUT")
    assert len(puts) == 3
    assert all("x-amz-checksum-sha256" in request.headers for request in puts)
    assert all(request.key.endswith(sha256(request.body)) for request in puts)


def test_other_bytes_of_the_same_size_never_become_a_file(server, tmp_path):
    server.objects["x/a"] = b"other"
    with pytest.raises(IntegrityError, match=r"s3://runs/x/a: its bytes are not those that were recorded"):
        open_store("s3://runs/x").download_all([Transfer(tmp_path / "a", "a", 5, sha256(b"bytes"))])
    assert list(tmp_path.iterdir()) == []


def test_an_object_of_another_size_is_reported_by_its_size(server, tmp_path):
    server.objects["x/a"] = b"far too many bytes"
    with pytest.raises(IntegrityError, match=r"s3://runs/x/a: holds 18 bytes, not the 5 that were recorded"):
        open_store("s3://runs/x").download_all([Transfer(tmp_path / "a", "a", 5, sha256(b"bytes"))])


def test_what_is_missing_is_named_and_the_rest_is_kept_for_the_next_attempt(server, folder, tmp_path):
    store = open_store("s3://runs/x")
    manifest = put_tree(store, folder)
    gone = FileEntry(size_bytes=4, sha256=sha256(b"gone"))
    wanted = Manifest(kind="rows", files={**manifest.files, "gone": gone})
    with pytest.raises(IntegrityError, match=gone.sha256):
        fetch_tree(store, wanted, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    store.write(content_key(gone.sha256), b"gone")
    server.requests.clear()
    fetch_tree(store, wanted, tmp_path / "back")
    assert (tmp_path / "back" / "gone").read_bytes() == b"gone"
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [5, SMALL_BYTES, SMALL_BYTES + 1])
def test_files_of_either_way_arrive_and_are_counted(server, tmp_path, size):
    data, moved = bytes(size), []
    (tmp_path / "up").write_bytes(data)
    store = open_store("s3://runs/x")
    store.upload_all([Transfer(tmp_path / "up", "a", size, sha256(data))], moved.append)
    store.download_all([Transfer(tmp_path / "down", "a", size, sha256(data))], moved.append)
    assert (tmp_path / "down").read_bytes() == data
    assert sum(moved) == 2 * size


def test_many_files_where_one_is_missing(server, tmp_path):
    store = open_store("s3://runs/x")
    for number in range(20):
        store.write(f"a{number}", b"bytes")
    transfers = [Transfer(tmp_path / str(n), f"a{n}", 5, sha256(b"bytes")) for n in range(21)]
    with pytest.raises(NotFoundError, match=r"s3://runs/x/a20: there is no such object"):
        store.download_all(transfers)
    assert not (tmp_path / "20").exists()


def test_neither_the_transfer_manager_nor_boto3s_resources_are_imported(server, folder, tmp_path):
    """They take a twentieth of the time of a task of a pipeline."""
    command = [sys.executable, "-c", A_TREE_THERE_AND_BACK, str(folder), str(tmp_path / "back")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(json.loads(ended.stdout))
    assert "botocore" in modules
    assert not modules & {"s3transfer", "boto3"}
