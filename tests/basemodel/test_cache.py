"""Folders of the cache appear whole or not at all, however many processes ask for them."""

import subprocess
import sys
import time

import pytest

from lorapar.basemodel.cache import cache_root, cached_folder
from lorapar.errors import StorageError


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("LORAPAR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    assert cache_root() == tmp_path / "someone/.cache/lorapar"


def test_made_once_then_found(fresh_cache):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "weights").write_text("w")

    first = cached_folder("m", make)
    assert first == cached_folder("m", make) == fresh_cache / "models" / "m"
    assert len(calls) == 1
    assert [path.name for path in first.iterdir()] == ["weights"]


def test_a_failure_leaves_nothing_that_looks_finished(fresh_cache):
    def fail(folder):
        (folder / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("m", fail)
    assert [path.name for path in (fresh_cache / "models").iterdir()] == [".m.lock"]


def test_what_a_killed_process_left_is_swept_away(fresh_cache):
    left = fresh_cache / "models" / ".m.abc"
    (left / "model").mkdir(parents=True)
    cached_folder("m", lambda folder: (folder / "weights").touch())
    assert not left.exists()


def test_of_two_processes_one_makes_it_and_both_get_it(fresh_cache):
    script = """
import os, time
from lorapar.basemodel.cache import cached_folder
def make(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(0.5)
    (folder / "last").touch()
folder = cached_folder("m", make)
assert (folder / "last").exists()
print((folder / "pid").read_text())
"""
    racers = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    written = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert written[0] == written[1]


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "file"))
    started = time.monotonic()
    with pytest.raises(StorageError, match="file"):
        cached_folder("m", lambda folder: None)
    assert time.monotonic() - started < 5
