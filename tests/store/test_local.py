"""A local folder keeps the promises of a bucket: whole objects, exactly one winner, nothing half-visible."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.errors import BadInputError, IntegrityError, StorageError
from lorapar.store import NotFoundError, Transfer, file_sha256, open_store


def test_written_is_read_and_listed_in_order(store):
    for key in ("b/two", "a", "b/one"):
        store.write(key, key.encode())
    assert store.read("b/one") == b"b/one"
    assert [(info.key, info.size_bytes) for info in store.list()] == [("a", 1), ("b/one", 5), ("b/two", 5)]
    assert [info.key for info in store.list("b/t")] == ["b/two"]
    assert store.exists("a")
    assert not store.exists("b"), "a folder is no object"
    assert set(store.known(["a", "nothing", "b/one"])) == {"a", "b/one"}


def test_what_is_missing_is_named_and_deleting_it_is_no_error(store):
    with pytest.raises(NotFoundError, match="store/a/b: there is no such object"):
        store.read("a/b")
    with pytest.raises(NotFoundError):
        store.renew("a/b")
    store.delete("a/b")
    store.write("a/b", b"")
    store.delete_all(["a/b", "a/c"])
    assert not list(store.list())


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", " a", "a*", "a\nb", "a/"])
def test_keys_that_a_path_would_read_otherwise_are_refused(store, key):
    with pytest.raises(BadInputError, match="cannot be the key"):
        store.write(key, b"")


def test_write_if_unchanged_replaces_only_what_was_read(store):
    store.write("alias", b"1")
    _, version = store.read_versioned("alias")
    assert store.write_if_unchanged("alias", b"2", version)
    assert not store.write_if_unchanged("alias", b"3", version)
    assert store.read("alias") == b"2"
    _, version = store.read_versioned("alias")
    store.delete("alias")
    assert not store.write_if_unchanged("alias", b"4", version)
    assert not store.exists("alias")


def _claim(job):
    root, writer, round_number = job
    return open_store(root).write_if_absent(f"round-{round_number}", str(writer).encode())


def test_of_processes_that_race_exactly_one_wins_each_round(store):
    with get_context("spawn").Pool(4) as pool:
        for number in range(10):
            won = pool.map(_claim, [(store.root, writer, number) for writer in range(12)])
            assert sum(won) == 1
            assert store.read(f"round-{number}") == str(won.index(True)).encode()


def test_of_threads_that_swap_each_version_is_replaced_once(store):
    store.write("count", b"0")
    start = threading.Barrier(8)

    def add_one(_):
        start.wait()
        while True:
            data, version = store.read_versioned("count")
            if store.write_if_unchanged("count", str(int(data) + 1).encode(), version):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(8)))
    assert store.read("count") == b"8"


def test_upload_and_download_keep_bytes_and_leave_nothing_beside(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000)
    counts = []
    store.upload_all([Transfer(file, "a/file", 3_000_000, file_sha256(file))], counts.append)
    store.download("a/file", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == file.read_bytes()
    assert sum(counts) == 3_000_000
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]
    assert [path.name for path in (store.root / "a").iterdir()] == ["file"]


def test_bytes_that_are_not_those_recorded_never_become_visible(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="not those that were recorded"):
        store.upload_all([Transfer(file, "a", 7, "0" * 64)])
    assert not store.exists("a")
    store.write("b", b"damaged")
    with pytest.raises(IntegrityError, match="not those that were recorded"):
        store.download_all([Transfer(tmp_path / "copy", "b", 7, "0" * 64)])
    assert not (tmp_path / "copy").exists()


def test_a_version_replaced_between_listing_and_reading_is_refused(store, tmp_path):
    store.write("rows", b"old")
    (listed,) = store.list()
    store.write("rows", b"newer")
    with pytest.raises(IntegrityError, match="was replaced meanwhile"):
        store.download_all([Transfer(tmp_path / "rows", "rows", 3, version=listed.version)])


def test_a_file_where_a_folder_should_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        open_store(tmp_path / "file").write("a/b", b"")


@given(st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e.f"]), st.binary(max_size=8)))
def test_reads_what_a_dictionary_would_hold(tmp_path_factory, objects):
    store = open_store(tmp_path_factory.mktemp("store"))
    for key, data in objects.items():
        store.write(key, data)
    assert {info.key: store.read(info.key) for info in store.list()} == objects


def test_name_that_the_file_system_does_not_take_is_one_line(store):
    with pytest.raises(StorageError, match="takes no name of that length"):
        store.write("n" * 300, b"")


def test_file_that_another_machine_replaced_is_opened_again(store, monkeypatch):
    """NFS: the first question after it answers ESTALE, again each time."""
    store.write("alias", b"1")
    stale = {"read_bytes", "stat"}

    def once(name):
        plain = getattr(Path, name)

        def ask(path, *args, **options):
            if path.name == "alias" and name in stale:
                stale.remove(name)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return plain(path, *args, **options)

        monkeypatch.setattr(Path, name, ask)

    once("read_bytes")
    once("stat")
    assert store.read("alias") == b"1"
    assert store.exists("alias")
    assert stale == set()
