"""Folders that cannot be made or written: one line that names the folder, before anything is computed or fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def as_a_user(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call `lorapar` where permissions count: root goes without the capability to ignore them."""
    command = [sys.executable, "-m", "lorapar.cli", *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root obeys permissions only through setpriv, of util-linux")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def places(tmp_path) -> Path:
    """A file, and a folder that nobody may write into."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "readonly").mkdir(mode=0o555)
    return tmp_path


@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("file", "file: cannot be made (File exists); choose another folder"),
        ("file/store", "file/store: cannot be made (Not a directory); choose another folder"),
        ("readonly", "readonly: cannot be written (Permission denied); choose another folder"),
        ("readonly/store", "readonly/store: cannot be made (Permission denied); choose another folder"),
    ],
)
@pytest.mark.parametrize("option", ["--store={}", "--set=registry.address={}"])
def test_a_run_does_not_start_where_its_storage_cannot_be(places, option, below, said) -> None:
    result = as_a_user("run", "--preset", "tiny", "--out", places / "run", option.format(places / below))
    assert (result.returncode, result.stderr) == (5, f"lorapar: {places}/{said}\n")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("below", "code", "said"),
    [
        ("file/mine", 5, "file: cannot be made (File exists); choose another folder"),
        ("readonly/mine", 5, "readonly: cannot be written (Permission denied); choose another folder"),
        ("readonly/a/mine", 5, "readonly/a: cannot be made (Permission denied); choose another folder"),
        ("file", 2, "file: is a file; name a folder to make"),
        ("kept", 2, "kept: holds other things than an adapter, and pull replaces a folder; name a new one"),
    ],
)
def test_pull_says_where_it_cannot_write_and_replaces_no_more_than_an_adapter(tiny_run, places, below, code, said):
    (places / "kept").mkdir()
    (places / "kept" / "thesis.tex").write_text("mine")
    result = as_a_user("adapters", "pull", "tiny@1", places / below, "--registry", tiny_run.parent / "registry")
    assert (result.returncode, result.stderr) == (code, f"lorapar: {places}/{said}\n")
    assert (places / "file").read_text() == (places / "kept" / "thesis.tex").read_text() == "mine"


def test_pull_replaces_an_adapter_and_fills_an_empty_folder(tiny_run, tmp_path) -> None:
    (tmp_path / "here").mkdir()
    for _ in range(2):
        result = as_a_user("adapters", "pull", "tiny@1", tmp_path / "here", "--registry", tiny_run.parent / "registry")
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "here" / "adapter_model.safetensors").is_file()
