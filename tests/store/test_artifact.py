"""An artifact is a folder whose manifest names every byte; readers refuse anything else."""

import errno
import os
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.errors import ExitCode, IntegrityError, StorageError
from lorapar.store import read_manifest, replace_folder, seal, storage_errors, verify
from lorapar.store.artifact import refused_by_system


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "scores"
    (folder / "deep").mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    (folder / "deep" / "tensor.bin").write_bytes(bytes(range(256)))
    return folder


def test_a_sealed_folder_verifies_and_equal_content_has_an_equal_digest(artifact, tmp_path):
    digest = seal(artifact, "test.scores").digest
    assert verify(artifact).digest == digest
    twin = tmp_path / "twin"
    (twin / "deep").mkdir(parents=True)
    (twin / "deep" / "tensor.bin").write_bytes(bytes(range(256)))
    (twin / "rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    assert seal(twin, "test.scores").digest == digest
    assert seal(twin, "test.other").digest != digest


def test_an_unsealed_folder_is_unfinished(artifact):
    with pytest.raises(IntegrityError, match="missing or unfinished"):
        verify(artifact)


@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_damage_is_noticed_and_the_file_named(artifact, damage):
    seal(artifact, "test.scores")
    file = artifact / "deep" / "tensor.bin"
    if damage == "change":
        file.write_bytes(bytes(255) + b"x")
    elif damage == "cut":
        file.write_bytes(b"short")
    else:
        file.unlink()
    with pytest.raises(IntegrityError, match=r"deep/tensor\.bin"):
        verify(artifact)


def test_a_manifest_that_is_none_is_named(artifact):
    (artifact / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match="not a manifest"):
        read_manifest(artifact)


def test_a_manifest_whose_bytes_are_no_text_is_damage_like_any_other(artifact):
    seal(artifact, "examples")
    path = artifact / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"examples", b"exam\xffles"))
    with pytest.raises(IntegrityError, match=r"manifest\.json: not a manifest"):
        verify(artifact)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4))
def test_the_digest_depends_on_names_and_bytes_only(tmp_path_factory, files):
    folders = [tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")]
    for folder, names in zip(folders, (sorted(files), sorted(files, reverse=True)), strict=True):
        for name in names:
            (folder / name).write_bytes(files[name])
    assert seal(folders[0], "k").digest == seal(folders[1], "k").digest


def test_replacing_a_folder_leaves_the_new_one_only(artifact, tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").touch()
    replace_folder(artifact, final)
    assert (final / "rows.jsonl").is_file()
    assert not (final / "old").exists()
    assert not artifact.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("number", [errno.ENOSPC])
def test_a_full_disk_is_one_line_with_its_exit_code(tmp_path, number):
    with pytest.raises(StorageError, match="the disk is full") as caught, storage_errors(tmp_path):
        raise OSError(number, "no space")
    assert caught.value.exit_code == ExitCode.STORAGE


def test_a_disk_without_free_inodes_is_distinguished_from_a_full_one(tmp_path, monkeypatch):
    free = SimpleNamespace(f_files=1000, f_favail=0, f_bavail=1 << 20, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    with pytest.raises(StorageError, match="has room, but takes no more files"), storage_errors(tmp_path / "a" / "b"):
        raise OSError(errno.ENOSPC, "no space")
    free.f_bavail = 0
    with pytest.raises(StorageError, match="the disk is full"), storage_errors(tmp_path):
        raise OSError(errno.ENOSPC, "no space")


def test_other_system_errors_stay_what_they_are(tmp_path):
    with pytest.raises(IsADirectoryError), storage_errors(tmp_path):
        tmp_path.read_text()


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (errno.EDQUOT, "the quota of this user or folder is used up"),
        (errno.EIO, "the disk or mount failed"),
        (errno.EFBIG, "takes no file of that size"),
        (errno.EMFILE, "raise ulimit -n"),
        (errno.EBUSY, "another process holds it"),
        (errno.ETXTBSY, "another process holds the file"),
    ],
)
def test_what_the_system_refuses_is_one_line(tmp_path, code, answer):
    with pytest.raises(StorageError, match=answer) as caught, storage_errors(tmp_path):
        raise OSError(code, os.strerror(code), str(tmp_path / "file"))
    assert caught.value.exit_code == ExitCode.STORAGE


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (
            OSError(errno.ENAMETOOLONG, "too long", "r" * 256),
            f"{'r' * 120}…: too long: its file system takes no name of",
        ),
        (OSError(errno.ENOSPC, "no space", "out/x"), "out/x: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "rows.jsonl"), r"rows.jsonl: cannot be read or written \(denied\)"),
        (PermissionError(errno.EACCES, "a system call"), None),
        (FileNotFoundError(errno.ENOENT, "gone", "a"), None),
        (ValueError("anything"), None),
    ],
)
def test_what_the_system_refuses_is_distinguished_from_a_bug(error, answer):
    reported = refused_by_system(error)
    assert (reported is None) if answer is None else re.match(answer, str(reported))


def test_quota_in_the_words_of_another_language_is_one(tmp_path):
    with pytest.raises(StorageError, match="quota"), storage_errors(tmp_path):
        raise RuntimeError(f"Error while serializing: I/O error: {os.strerror(errno.EDQUOT)} (os error 122)")
