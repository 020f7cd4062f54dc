"""File systems that lack something: each call that such a one refuses is made to fail as it does there."""

import errno
import fcntl
import mmap
import os
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from lorapar.errors import BadInputError, ExitCode, StorageError
from lorapar.local.folder import RunFolder
from lorapar.records import Vote
from lorapar.registry import Registry
from lorapar.store import file_system, open_store, replace_folder, seal, storage_errors, write_atomically
from lorapar.store.file_system import copy_files, lacking, locked, replace_path
from lorapar.training.candidates import candidate_folder, copy_candidates
from lorapar.voting.collect import VoteJournal
from lorapar.voting.teacher_pool import VoteCache

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.EIO)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(file_system, "_warned", set())


@pytest.fixture
def refuse(monkeypatch):
    """Let a call of the system fail with an error number."""

    def make(module, name, number, *, where=lambda *a: True):
        real = getattr(module, name)

        def call(*arguments, **more):
            if where(*arguments):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    return make


def over(made, final, **_):
    """Whether a rename would replace something."""
    return os.path.exists(final)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_run_folder_without_locks_says_so_once_and_goes_on(tmp_path, refuse, caplog, number):
    refuse(fcntl, "flock", number)
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):
        with folder.locked():
            (folder.root / "stages").mkdir(exist_ok=True)
    (message,) = caplog.messages
    assert message.startswith(f"lorapar: {tmp_path / 'run'}: its file system lacks locks ({os.strerror(number)})")
    assert "would not notice each other" in message


def test_a_disk_that_fails_is_no_lack_of_locks(tmp_path, refuse, caplog):
    refuse(fcntl, "flock", errno.EIO)
    refuse(fcntl, "lockf", errno.EIO)
    refuse(os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "lock"):
        pass
    with pytest.raises(StorageError, match="the disk or mount failed"), storage_errors(tmp_path):
        open_store(tmp_path).write("a", b"x")
    with pytest.raises(StorageError, match="the disk or mount failed"):
        VoteCache(tmp_path / "votes.sqlite", [], lambda teacher: "x")
    assert "lacks locks" not in caplog.text


def test_second_run_in_one_process_is_refused_even_without_locks(tmp_path, refuse):
    refuse(fcntl, "flock", errno.ENOLCK)
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(BadInputError, match="another run is working"), folder.locked():
        pass


def test_run_folder_with_locks_keeps_the_second_out_and_says_nothing(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(BadInputError, match="another run is working"), folder.locked():
        pass
    assert caplog.messages == []


@pytest.mark.parametrize("number", NO_LOCKS)
def test_registry_without_locks_moves_aliases(tmp_path, refuse, caplog, number):
    refuse(fcntl, "flock", number)
    registry = Registry(open_store(tmp_path / "registry"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(name)
        registry.publish("task", tmp_path / name)
    registry.set_alias("task", "production", 1)
    registry.move_alias("task", "production", 2, expected=1)
    assert registry.resolve("task").number == 2
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_of_writers_that_race_one_wins_without_hard_links(tmp_path, refuse, number, locks):
    refuse(os, "link", number)
    if not locks:
        refuse(fcntl, "flock", errno.ENOLCK)
    store = open_store(tmp_path / "store")
    won: list[int] = []

    def write(name):
        if store.write_if_absent("a/key", b"%d" % name):
            won.append(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("a/key") == b"%d" % won[0]
    assert len(won) == 1


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_file_is_replaced_where_nothing_can_be_renamed_over_it(tmp_path, refuse, caplog, number):
    refuse(os, "replace", number, where=over)
    refuse(os, "rename", number, where=over)
    path = tmp_path / "a.json"
    for text in ("old", "new", "newer"):
        write_atomically(path, text)
        assert path.read_text() == text
    store = open_store(tmp_path / "store")
    for data in (b"old", b"new"):
        store.write("key", data)
        assert store.read("key") == data
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["a.json"], "no scratch file is left"
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS])
def test_files_and_folders_move_where_nothing_can_be_renamed(tmp_path, refuse, number):
    refuse(os, "replace", number)
    refuse(os, "rename", number)
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    for name in ("one", "two"):
        (tmp_path / "made" / "deep").mkdir(parents=True)
        (tmp_path / "made" / "deep" / name).write_text(name)
        replace_folder(tmp_path / "made", tmp_path / "final")
        assert [path.name for path in (tmp_path / "final").rglob("*")] == ["deep", name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "final"]


def test_a_folder_that_may_not_be_written_is_no_lack_of_renames(tmp_path, refuse, caplog):
    refuse(os, "replace", errno.EACCES)
    refuse(os, "unlink", errno.EACCES)
    (tmp_path / "final").write_text("old")
    (tmp_path / "made").write_text("new")
    with pytest.raises(PermissionError):
        replace_path(tmp_path / "made", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "old"
    assert caplog.messages == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_content_is_made_young_where_times_cannot_be_set(tmp_path, refuse, number):
    store = open_store(tmp_path)
    store.write("key", b"bytes")
    os.utime(tmp_path / "key", (1, 1))
    refuse(os, "utime", number)
    store.renew("key")
    assert (tmp_path / "key").stat().st_mtime > 1
    assert store.read("key") == b"bytes"


def test_copies_set_neither_modes_nor_times(tmp_path, refuse):
    refuse(os, "chmod", errno.EPERM)
    refuse(os, "utime", errno.EPERM)
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_text("x")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    copy_files(tmp_path / "a", tmp_path / "b", left_out=("manifest.json",))
    assert [path.name for path in (tmp_path / "b").rglob("*")] == ["deep", "x"]
    kept = candidate_folder(tmp_path / "a", 10)
    kept.mkdir(parents=True)
    (kept / "x").write_text("x")
    copy_candidates(tmp_path / "a", tmp_path / "c")
    assert (candidate_folder(tmp_path / "c", 10) / "x").read_text() == "x"


def test_votes_are_kept_where_nothing_can_be_forced_to_the_disk(tmp_path, refuse):
    refuse(os, "fsync", errno.EINVAL)
    with VoteJournal(tmp_path / "votes.jsonl") as journal:
        journal.append(Vote(example_id="a", teacher="one", label="system1", template="t", raw="1"))
    assert [vote.example_id for vote in VoteJournal(tmp_path / "votes.jsonl").recover()] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_cache_of_votes_works_without_record_locks(tmp_path, refuse, monkeypatch, caplog, number):
    refuse(fcntl, "lockf", number)
    real, used = sqlite3.connect, []

    def connect(path, **more):
        used.append(str(path))
        return real(path, **more)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with VoteCache(tmp_path / "votes.sqlite", [], lambda teacher: "x"):
        pass
    assert [address.endswith("?nolock=1") for address in used] == [True]
    assert "lacks locks" in caplog.text


def test_cache_of_votes_works_without_shared_memory(tmp_path, monkeypatch):
    real = sqlite3.connect

    def connect(path, **more):
        if not more.get("uri"):
            raise sqlite3.OperationalError("disk I/O error")
        return real(path, **more)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with VoteCache(tmp_path / "votes.sqlite", [], lambda teacher: "x"):
        pass
    assert (tmp_path / "votes.sqlite").stat().st_size > 0


def test_weights_are_read_where_files_cannot_be_mapped(tmp_path, monkeypatch, caplog):
    import torch

    from lorapar.adapter import files
    from lorapar.adapter.files import read_tensors, write_tensors

    write_tensors(tmp_path / "a.safetensors", {"x": torch.arange(6.0).reshape(2, 3)}, {"format": "pt"})

    def unmapped(*arguments, **more):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(files, "safe_open", unmapped)
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["x"], torch.arange(6.0).reshape(2, 3))
    assert metadata == {"format": "pt"}
    assert "lacks mmap" in caplog.text
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(BadInputError, match="cannot read"):
        read_tensors(tmp_path / "a.safetensors")


def test_base_model_is_loaded_where_files_cannot_be_mapped(monkeypatch, caplog):
    import torch
    from transformers import modeling_utils

    from lorapar.basemodel import load_model
    from lorapar.config import ModelConfig

    config = ModelConfig(name="builtin:tiny", dtype="float32")
    before = load_model(config).state_dict()

    def unmapped(*arguments, **more):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(modeling_utils, "safe_open", unmapped)
    after = load_model(config).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert "lacks mmap" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ESTALE, errno.EROFS])
def test_whatever_else_is_refused_is_one_line_with_exit_code_5(tmp_path, number):
    with pytest.raises(StorageError, match=r"made\.json: .*\(") as caught, storage_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "made.json"))
    assert caught.value.exit_code == ExitCode.STORAGE
    assert "\n" not in str(caught.value)


def test_what_is_lacking_is_found_out_beforehand(tmp_path, refuse):
    assert lacking(tmp_path / "not" / "there") == []
    refuse(fcntl, "flock", errno.ENOLCK)
    refuse(os, "link", errno.EPERM)
    refuse(os, "utime", errno.EPERM)
    refuse(os, "replace", errno.EEXIST, where=over)
    refuse(mmap, "mmap", errno.ENODEV)
    found = lacking(tmp_path / "not" / "there")
    assert [what.partition(" (")[0] for what in found] == [
        "locks",
        "hard links",
        "setting a file's time",
        "mmap",
        "renaming over a file",
    ]
    assert list(tmp_path.iterdir()) == []


def test_names_in_one_case_are_found_out(tmp_path, monkeypatch):
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: real(path.with_name(path.name.lower())))
    assert [what.partition(" (")[0] for what in lacking(tmp_path)] == ["names that differ in capital letters alone"]


def test_doctor_and_plan_say_it(tmp_path, refuse, monkeypatch):
    from typer.testing import CliRunner

    from lorapar import doctor
    from lorapar.cli import app

    refuse(fcntl, "flock", errno.ENOLCK)
    monkeypatch.setenv("COLUMNS", "400")
    shown = CliRunner().invoke(app, ["plan", "--preset", "tiny", "--out", str(tmp_path / "run")])
    assert f"{tmp_path / 'run'}: its file system lacks locks" in " ".join(shown.output.split())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_hub", lambda: doctor.Finding("hub", "not asked"))
    notes = [finding for finding in doctor.examine() if "lacks locks" in finding.found]
    assert notes
    assert not any(finding.missing for finding in notes)


@pytest.fixture
def silly_renames(tmp_path, monkeypatch):
    """As NFS does where a removed file is open somewhere: it stays under another name, and so does its folder."""
    real, numbers = os.unlink, iter(range(10_000))

    def unlink(path, *, dir_fd=None):
        folder, name = os.path.split(os.fspath(path))
        if name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        if name.startswith("open"):
            kept = os.path.join(folder, f".nfs{next(numbers):016x}")
            return os.rename(path, kept, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "remove", unlink)


def test_a_folder_is_replaced_again_and_again_while_somebody_reads_a_file_of_it(tmp_path, silly_renames):
    for text in ("one", "two", "three", "four"):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "open.safetensors").write_text(text)
        replace_folder(tmp_path / "made", tmp_path / "final")
        assert (tmp_path / "final" / "open.safetensors").read_text() == text
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["final"]


@pytest.mark.parametrize("left", [".nfs0000000000000001", ".fuse_hidden0000001200000001"])
def test_what_was_removed_is_neither_listed_nor_sealed(tmp_path, left):
    store = open_store(tmp_path)
    store.write("a/key", b"bytes")
    (tmp_path / "a" / left).write_bytes(b"removed")
    assert [info.key for info in store.list()] == ["a/key"]
    assert list(seal(tmp_path / "a", "kind").files) == ["key"]


def test_a_folder_that_is_stale_once_is_asked_again(tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    store.write("a/key", b"bytes")
    for name, ask in (
        ("scandir", lambda: [info.key for info in store.list()]),
        ("stat", lambda: store.delete("a/key")),
        ("mkdir", lambda: store.write("b/key", b"bytes")),
    ):
        real, asked = getattr(os, name), []

        def once(path, *more, real=real, asked=asked, **options):
            asked.append(path)
            if len(asked) == 1:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return real(path, *more, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, once)
            ask()
        assert len(asked) > 1
    assert [info.key for info in store.list()] == ["b/key"]


def test_a_folder_that_stays_stale_is_one_line(tmp_path, refuse):
    store = open_store(tmp_path / "store")
    store.write("a/key", b"bytes")
    refuse(os, "scandir", errno.ESTALE)
    with pytest.raises(StorageError, match="cannot be read"):
        list(store.list())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_read_only_mount_is_read_and_says_what_cannot_be_written(tmp_path):
    place = tmp_path / "mount"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", place], check=False, capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        store = open_store(place / "store")
        store.write("a/key", b"bytes")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert store.read("a/key") == b"bytes"
        assert [info.key for info in store.list()] == ["a/key"]
        version = store.read_versioned("a/key")[1]
        for write in (
            lambda: store.write("a/key", b"other"),
            lambda: store.write_if_absent("new", b"other"),
            lambda: store.write_if_unchanged("a/key", b"other", version),
            lambda: store.delete("a/key"),
        ):
            with pytest.raises(StorageError, match="Read-only file system"):
                write()
        assert store.read("a/key") == b"bytes"
    finally:
        subprocess.run(["umount", place], check=True)


def test_lock_waits_for_another_thread(tmp_path, refuse):
    refuse(fcntl, "flock", errno.ENOLCK)
    order = []
    with locked(tmp_path / "lock") as alone:
        other = threading.Thread(target=lambda: _hold(tmp_path / "lock", order))
        other.start()
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert alone is False


def _hold(path, order):
    with locked(path):
        order.append("second")
