"""Texts by content: damaged segments of a store, texts with strange line ends, what is kept again wins."""

from __future__ import annotations

import sqlite3

import pytest

from lorapar.errors import StorageError
from lorapar.store import open_store
from lorapar.store.base import DeniedError
from lorapar.store.remembered import ContentCache, is_damage

KEYS = [bytes([number]) * 32 for number in range(3)]


def filled(path, store, texts) -> None:
    with ContentCache(path, "answers", store) as cache:
        for key, text in zip(KEYS, texts, strict=False):
            cache.keep("i" * 64, key, text)


def test_a_damaged_segment_is_removed_and_can_be_sent_again(tmp_path) -> None:
    store = open_store(tmp_path / "store")
    filled(tmp_path / "one", store, ["a", "b"])
    (segment,) = (tmp_path / "store" / "answers").rglob("*.txt")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-30])
    with ContentCache(tmp_path / "two", "answers", store) as cache:
        assert cache.recall("i" * 64, KEYS) == {}
    assert not segment.exists()
    filled(tmp_path / "three", store, ["a", "b"])
    assert segment.read_bytes() == whole


def test_a_text_may_hold_characters_that_end_a_line_elsewhere(tmp_path) -> None:
    store, texts = open_store(tmp_path / "store"), ["one\u2028two\x85three", "four\x1c"]
    filled(tmp_path / "one", store, texts)
    with ContentCache(tmp_path / "two", "answers", store) as cache:
        assert cache.recall("i" * 64, KEYS) == dict(zip(KEYS, texts, strict=False))


def test_what_is_kept_again_replaces_what_was_there(tmp_path) -> None:
    filled(tmp_path / "one", None, ["damaged"])
    filled(tmp_path / "one", None, ["whole"])
    with ContentCache(tmp_path / "one", "answers") as cache:
        assert cache.recall("i", KEYS[:1]) == {KEYS[0]: "whole"}


def test_asked_anew_nothing_from_before_is_recalled_and_the_new_text_is_everybodys(tmp_path) -> None:
    """What was kept before stays, for others and in the file, until a new text takes its place."""
    store, identity = open_store(tmp_path / "store"), "i" * 64
    filled(tmp_path / "one", store, ["a", "b", "c"])
    with ContentCache(tmp_path / "other", "answers", store) as other:
        assert other.recall(identity, KEYS) == dict(zip(KEYS, "abc", strict=True))
    for folder in ("two", "one"):  # a machine that knows nothing, and one that knows all
        with ContentCache(tmp_path / folder, "answers", store, anew=True) as cache:
            assert cache.recall(identity, KEYS) == {}
            cache.keep(identity, KEYS[0], f"A of {folder}")
            assert cache.recall(identity, KEYS) == {KEYS[0]: f"A of {folder}"}
            with ContentCache(tmp_path / f"beside-{folder}", "answers", store) as beside:
                assert beside.recall(identity, KEYS)[KEYS[1]] == "b"
        for reader in ("one", "two", "other", f"beside-{folder}", f"new-{folder}"):
            with ContentCache(tmp_path / reader, "answers", store) as cache:
                found = cache.recall(identity, KEYS)
            assert found == dict(zip(KEYS, (f"A of {folder}", "b", "c"), strict=True)), reader


def test_a_text_that_is_given_again_is_the_last_word_again(tmp_path) -> None:
    store = open_store(tmp_path / "store")
    filled(tmp_path / "one", store, ["a"])
    for text in ("b", "a"):
        with ContentCache(tmp_path / text, "answers", store, anew=True) as cache:
            cache.keep("i" * 64, KEYS[0], text)
        with ContentCache(tmp_path / f"after-{text}", "answers", store) as cache:
            assert cache.recall("i" * 64, KEYS) == {KEYS[0]: text}


def test_damage_is_distinguished_from_a_full_disk(tmp_path) -> None:
    (tmp_path / "bad").write_bytes(b"no database at all, but long enough to look at" * 9)
    with pytest.raises(StorageError, match="the cache of answers cannot be used") as damaged:
        ContentCache(tmp_path / "bad", "answers")
    assert is_damage(damaged.value)
    assert not is_damage(StorageError("no space left"))


def io_error(name: str, text: str = "disk I/O error") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    "name", ["SQLITE_IOERR_READ", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMMAP"]
)
def test_a_disk_that_fails_is_no_lack_of_locks(tmp_path, monkeypatch, caplog, name) -> None:
    tried = []

    def connect(path, **_):
        tried.append(path)
        raise io_error(name)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StorageError, match=r"disk I/O error.*your quota there is used up, or the disk .* fails"):
        ContentCache(tmp_path / "one", "answers")
    assert len(tried) == (2 if name.endswith("SHMMAP") else 1), "only without shared memory is there another way"
    assert "lacks locks" not in caplog.text


def test_missing_shared_memory_is_told_apart_and_the_work_goes_on(tmp_path, monkeypatch, caplog) -> None:
    real = sqlite3.connect

    def connect(path, **more):
        if not more.get("uri"):
            raise io_error("SQLITE_IOERR_SHMMAP")
        return real(path, **more)

    monkeypatch.setattr(sqlite3, "connect", connect)
    filled(tmp_path / "one", None, ["whole"])
    with ContentCache(tmp_path / "one", "answers") as cache:
        assert cache.recall("i", KEYS[:1]) == {KEYS[0]: "whole"}
    assert "lacks locks" in caplog.text


def test_a_damaged_segment_that_may_not_be_removed_ends_nothing(tmp_path, monkeypatch) -> None:
    store = open_store(tmp_path / "store")
    filled(tmp_path / "one", store, ["a"])
    (segment,) = (tmp_path / "store" / "answers").rglob("*.txt")
    segment.write_bytes(b"damaged")

    def denied(key):
        raise DeniedError(f"{key}: access denied")

    monkeypatch.setattr(store, "delete", denied)
    with ContentCache(tmp_path / "two", "answers", store) as cache:
        assert cache.recall("i" * 64, KEYS) == {}


def changed(path, statement: str) -> None:
    file = sqlite3.connect(path)
    with file:
        file.execute(statement)
    file.close()


@pytest.mark.parametrize("damage", ["cast(x'ff41' as text)", "x'ff41'", "NULL", "cast('a' as blob)"])
def test_an_entry_whose_bytes_are_no_text_is_lost_alone_until_it_is_kept_again(tmp_path, damage) -> None:
    filled(tmp_path / "one", None, ["a", "b", "c"])
    changed(tmp_path / "one", f"UPDATE answers SET entry = {damage} WHERE key = x'{KEYS[1].hex()}'")  # noqa: S608
    with ContentCache(tmp_path / "one", "answers") as cache:
        assert cache.recall("i", KEYS) == {KEYS[0]: "a", KEYS[2]: "c"}
        cache.keep("i", KEYS[1], "b")
    with ContentCache(tmp_path / "one", "answers") as cache:
        assert cache.recall("i", KEYS) == dict(zip(KEYS, "abc", strict=True))


@pytest.mark.parametrize("column", ["answers", "segments"])
def test_a_key_whose_bytes_are_no_text_is_read_from_the_store_again(tmp_path, column) -> None:
    store = open_store(tmp_path / "store")
    filled(tmp_path / "one", store, ["a"])
    changed(tmp_path / "one", "DELETE FROM answers")
    changed(tmp_path / "one", "UPDATE segments SET key = cast(x'ff41' as text)")
    if column == "answers":
        changed(tmp_path / "one", "INSERT INTO answers VALUES (cast(x'ff41' as text), 'z')")
    with ContentCache(tmp_path / "one", "answers", store) as cache:
        assert cache.recall("i" * 64, KEYS) == {KEYS[0]: "a"}


def test_what_was_not_sent_is_sent_after_a_move_and_the_store_is_read_again(tmp_path) -> None:
    store, identity = open_store(tmp_path / "store"), "i" * 64
    filled(tmp_path / "one", store, ["a"])
    with ContentCache(tmp_path / "two", "answers", store) as cache:
        assert cache.recall(identity, KEYS) == {KEYS[0]: "a"}
        cache.keep(identity, KEYS[1], "b")
        cache.move(None)
        cache.keep(identity, KEYS[2], "c")
        assert cache.recall(identity, KEYS) == dict(zip(KEYS, "abc", strict=True))
    with ContentCache(tmp_path / "three", "answers", store) as cache:
        assert cache.recall(identity, KEYS) == dict(zip(KEYS, "abc", strict=True))
