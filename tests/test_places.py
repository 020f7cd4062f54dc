"""The cache lies in the home folder, and where nothing can be kept there in a temporary folder of this user."""

import os
import subprocess
import sys

import pytest

from lorapar.errors import StorageError
from lorapar.places import cache_folder, settle_caches


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A home that nobody can write below, as `/` of a container with a read-only root is."""
    for name in ("LORAPAR_CACHE", "XDG_CACHE_HOME", "TRITON_HOME"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_home_is_taken_as_long_as_it_can_be_written(monkeypatch, tmp_path):
    monkeypatch.delenv("LORAPAR_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lorapar"
    settle_caches()
    assert "LORAPAR_CACHE" not in os.environ


def test_other_libraries_are_given_the_place_too(homeless, capsys):
    settle_caches()
    folder = homeless / f"lorapar-cache-{os.getuid()}"
    assert cache_folder() == folder
    assert (os.environ["XDG_CACHE_HOME"], os.environ["TRITON_HOME"]) == (str(folder), f"{folder}/triton")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"caches are kept in {folder}; set LORAPAR_CACHE" in capsys.readouterr().err


def test_variables_that_are_set_stay(homeless, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    settle_caches()
    assert os.environ["XDG_CACHE_HOME"] == "/somewhere"


def test_folder_that_others_may_write_is_refused(homeless):
    (homeless / f"lorapar-cache-{os.getuid()}").mkdir(mode=0o777)
    (homeless / f"lorapar-cache-{os.getuid()}").chmod(0o777)
    with pytest.raises(StorageError, match="others may write there; set LORAPAR_CACHE"):
        cache_folder()


def test_link_in_its_place_is_refused(homeless):
    (homeless / "elsewhere").mkdir(mode=0o700)
    (homeless / f"lorapar-cache-{os.getuid()}").symlink_to(homeless / "elsewhere")
    with pytest.raises(StorageError, match="others may write there"):
        cache_folder()


def test_command_says_it_once(homeless):
    command = [sys.executable, "-m", "lorapar", "presets"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "TMPDIR": str(homeless)}
    )
    assert done.returncode == 0
    assert done.stderr.count("the home folder cannot be written") == 1
