"""Every script of the repository: asked for help it prints its usage, given what it does not know it says so in a line.

Neither starts anything: whatever a script could start is a stand-in here that would leave a note.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".ci", "examples", "findings", "helm", "images", "tests")
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in FILES if path.open("rb").read(3) == b"#!/")
HANDING_ON = ("tests/kind/install-chart.sh", "tests/kind/minio.sh", "tests/kind/run-tiny.sh")
"""What these are given goes to helm or to `lorapar submit`, which know their own options."""
OWN = (
    *(
        "python",
        "python3",
        "pip",
        "uv",
        "docker",
        "dockerd",
        "apt-get",
        "debootstrap",
        "make",
        "kubectl",
        "helm",
        "kind",
    ),
    *("lorapar", "git", "mktemp", "rm", "mkdir", "tee", "nohup", "dpkg-query", "ldconfig", "timeout", "curl"),
)
SYSTEM = ("bash", "sh", "env", "sed", "dirname", "date", "cat", "head")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of commands: a few of the system's own, and for all others one that leaves a note."""
    folder = tmp_path_factory.mktemp("tools")
    for name in SYSTEM:
        (folder / name).symlink_to(str(shutil.which(name)))
    noting = folder / "noting"
    noting.write_text('#!/bin/sh\necho "$0 $*" >>"$NOTES"\nexit 1\n', encoding="utf-8")
    noting.chmod(0o755)
    for name in OWN:
        (folder / name).symlink_to(noting)
    return folder


def called(name: str, tools: Path, notes: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(ROOT / name), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": str(tools), "NOTES": str(notes), "PYTHON": "python"},
        cwd=notes.parent,
    )
    assert not notes.exists(), f"{name} {' '.join(words)} has started {notes.read_text(encoding='utf-8')}"
    assert list(notes.parent.iterdir()) == []
    return done.returncode, done.stdout, done.stderr


def test_the_scripts_are_found() -> None:
    assert {"images/build.sh", ".ci/retrain", ".ci/run", "tests/kind/kind-up.sh"} <= set(SCRIPTS)
    assert set(HANDING_ON) <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_prints_the_usage_and_starts_nothing(name: str, tools: Path, tmp_path: Path) -> None:
    code, usage, errors = called(name, tools, tmp_path / "notes", "--help")
    assert (code, errors) == (0, "")
    assert len(usage.strip()) > 30
    assert not usage.startswith("#")
    assert called(name, tools, tmp_path / "notes", "-h")[:2] == (0, usage)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in HANDING_ON])
def test_an_option_that_a_script_does_not_know_is_one_line(name: str, tools: Path, tmp_path: Path) -> None:
    code, message, errors = called(name, tools, tmp_path / "notes", "--no-such-option")
    assert (code, message, errors.count("\n")) == (2, "", 1), errors
    assert "--no-such-option" in errors


@pytest.mark.parametrize("name", HANDING_ON)
def test_an_option_that_is_handed_on_is_checked_by_whom_it_is_for_before_anything_starts(
    name: str, tools: Path, tmp_path: Path
) -> None:
    """helm and `lorapar` are the real ones; of kubectl and `timeout` nothing is asked."""
    real = tmp_path / "real"
    real.mkdir()
    for command in ("helm", "lorapar"):
        beside = Path(sys.executable).with_name(command)
        (real / command).symlink_to(beside if beside.is_file() else str(shutil.which(command)))
    (real / "tail").symlink_to(str(shutil.which("tail")))
    notes = tmp_path / "notes"
    done = subprocess.run(
        [str(ROOT / name), "--set", "a=1", "--no-such-option"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{real}:{tools}", "NOTES": str(notes), "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "--no-such-option" in done.stderr
    assert not notes.exists()


def test_a_wrong_word_among_right_ones_builds_no_image(tools: Path, tmp_path: Path) -> None:
    code, _, errors = called("images/build.sh", tools, tmp_path / "notes", "client", "trainr")
    assert (code, "'trainr' is no image" in errors) == (2, True)


@pytest.mark.parametrize("module", ["helm.describe_values", "pipelines.compile"])
def test_a_module_that_writes_files_writes_none_when_asked_for_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("it has written a file"))
    for word, code in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", [module, word])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        assert ended.value.code == code
    message = capsys.readouterr()
    assert message.out.startswith("usage: ")
    assert "unrecognized arguments: --no-such-option" in message.err
