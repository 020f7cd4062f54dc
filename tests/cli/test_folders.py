"""Folders that cannot be made or written: one line that names the folder, before anything is computed or fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from lorapar.cli import app
from lorapar.errors import BadInputError


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
    ("below", "message"),
    [
        ("file", "file: cannot be made (File exists); choose another folder"),
        ("file/store", "file/store: cannot be made (Not a directory); choose another folder"),
        ("readonly", "readonly: cannot be written (Permission denied); choose another folder"),
        ("readonly/store", "readonly/store: cannot be made (Permission denied); choose another folder"),
    ],
)
@pytest.mark.parametrize("option", ["--store={}", "--set=registry.address={}"])
def test_a_run_does_not_start_where_its_storage_cannot_be(places, option, below, message) -> None:
    result = as_a_user("run", "--preset", "tiny", "--out", places / "run", option.format(places / below))
    assert (result.returncode, result.stderr) == (5, f"lorapar: {places}/{message}\n")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("below", "code", "message"),
    [
        ("file/mine", 5, "file: cannot be made (File exists); choose another folder"),
        ("readonly/mine", 5, "readonly: cannot be written (Permission denied); choose another folder"),
        ("readonly/a/mine", 5, "readonly/a: cannot be made (Permission denied); choose another folder"),
        ("file", 2, "file: is a file; name a folder to make"),
        ("kept", 2, "kept: holds other things than an adapter, and pull replaces a folder; name a new one"),
    ],
)
def test_pull_says_where_it_cannot_write_and_replaces_no_more_than_an_adapter(tiny_run, places, below, code, message):
    (places / "kept").mkdir()
    (places / "kept" / "thesis.tex").write_text("mine")
    result = as_a_user("adapters", "pull", "tiny@1", places / below, "--registry", tiny_run.parent / "registry")
    assert (result.returncode, result.stderr) == (code, f"lorapar: {places}/{message}\n")
    assert (places / "file").read_text() == (places / "kept" / "thesis.tex").read_text() == "mine"


def test_pull_replaces_an_adapter_and_fills_an_empty_folder(tiny_run, tmp_path) -> None:
    (tmp_path / "here").mkdir()
    for _ in range(2):
        result = as_a_user("adapters", "pull", "tiny@1", tmp_path / "here", "--registry", tiny_run.parent / "registry")
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "here" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("command", "held"), [("run", "adapter/notes.txt"), ("run", ".lock"), ("plan", "config.yaml")])
def test_a_folder_of_something_else_is_no_run_folder(tmp_path, command, held) -> None:
    mine = tmp_path / "user" / held
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = as_a_user(command, "--preset", "tiny", "--out", tmp_path / "user")
    message = "is not empty and is no run folder of lorapar; give another --out or an empty one"
    assert (result.returncode, result.stderr) == (2, f"lorapar: --out {tmp_path}/user: {message}\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine], "and nothing was written"
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("left", ["what a stop in the first second leaves", "a copy without hidden files", "a volume"])
def test_run_folders_are_continued_and_volumes_begun(tiny_run, tmp_path, left) -> None:
    folder = tmp_path / "run"
    if left == "a copy without hidden files":
        shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns(".*"))
    else:
        (folder / ("lost+found" if left == "a volume" else "work")).mkdir(parents=True)
        if left != "a volume":
            (folder / ".lock").touch()
    result = as_a_user("run", "--preset", "tiny", "--out", folder, "--until", "plan")
    assert result.returncode == 0, result.stderr


def test_the_folder_that_was_given_is_the_one_that_is_named() -> None:
    result = as_a_user("run", "--preset", "tiny", "--out", "/proc/x")
    message = "--out /proc/x: cannot be made (No such file or directory); choose another folder"
    assert (result.returncode, result.stderr) == (5, f"lorapar: {message}\n")


def test_a_file_is_no_run_folder_to_read_a_verdict_from(places) -> None:
    result = as_a_user("gate", places / "file")
    message = "not a run folder; start one with `lorapar run`"
    assert (result.returncode, result.stderr) == (2, f"lorapar: {places}/file: {message}\n")


@pytest.mark.parametrize("command", ["compile", "votes", "why"])
def test_a_file_that_cannot_be_written_is_one_line(tiny_run, places, command) -> None:
    for below, code, message in [
        ("nodir/x", 5, "cannot be written (No such file or directory); name a file in a folder that is there"),
        ("", 2, "is a folder; name a file to write"),
    ]:
        arguments = {
            "compile": ["compile", "-o", places / below],
            "votes": ["votes", "export", tiny_run, "--file", places / below],
            "why": ["adapters", "why", "tiny@1", "--registry", tiny_run.parent / "registry", "--save", places / below],
        }
        result = as_a_user(*arguments[command])
        assert (result.returncode, result.stderr.splitlines()[-1]) == (code, f"lorapar: {places / below}: {message}")
        assert "Traceback" not in result.stderr


def test_a_file_to_write_may_be_a_pipe_or_a_link(places) -> None:
    (places / "link").symlink_to(places / "file")
    for target in ("/dev/stderr", places / "link"):
        assert as_a_user("compile", "-o", target).returncode == 0
    assert (places / "link").is_symlink()
    assert "components" in (places / "file").read_text()


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        (0o644, 2, "--file none.jsonl: there is no such file"),
        (0o444, 5, "{}: cannot be written; choose another file"),
    ],
)
def test_answers_go_to_any_file_that_can_be_written_whatever_its_folder_allows(places, mode, code, message) -> None:
    """The file is looked at before the questions are."""
    output = places / "readonly" / "answers.jsonl"
    output.touch()
    output.chmod(mode)
    result = as_a_user("ask", places, "--file", "none.jsonl", "-o", output)
    assert (result.returncode, result.stderr) == (code, f"lorapar: {message.format(output)}\n")


_S3 = "s3:/b: not an address lorapar knows (did you mean s3://b?); write s3://BUCKET/PREFIX or a local path"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "tiny", "--out", ""], "--out: is empty"),
        (["run", "--preset", "tiny", "--store", ""], "--store: is empty"),
        (["run", "--preset", "tiny", "--set", 'store.address=""'], "store.address: an address is empty"),
        (["adapters", "pull", "tiny@1", ""], "FOLDER: is empty"),
        (["gc", "store", "--root", ""], "--root: is empty"),
        (["run", "--preset", "tiny", "--store", "s3:/b"], _S3),
        (["run", "--preset", "tiny", "--set", "registry.address=s3:/b"], f"registry.address: {_S3}"),
        (["run", "--preset", "tiny", "--set", "edits.source=s3:/b"], f"edits.source: {_S3}"),
        (["run", "--preset", "tiny", "--set", "data.source=s3:/b"], f"data.source: {_S3}"),
        (["run", "--preset", "tiny", "--set", "model.name=s3:/b"], f"model.name: {_S3}"),
        (["run", "--preset", "tiny", "--store", "gs://b"], "gs://b: not an address lorapar knows"),
        (["run", "--preset", "tiny", "--set", "registry.address=http://b"], "http://b: not an address lorapar knows"),
        (["run", "--preset", "tiny", "--out", "s3://b/run"], "--out: s3://b/run is an address"),
        (["adapters", "list", "--registry", "s3:/b"], _S3),
        (["models", "mirror", "builtin:tiny", "s3:/b"], _S3),
    ],
)
def test_an_empty_or_half_written_address_makes_no_folder(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as caught:
        typer.testing.CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
