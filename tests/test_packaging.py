"""The wheel as a person gets it: built, installed in a clean environment without torch, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lorapar import __version__
from lorapar.config import preset_names
from lorapar.config.study import study_names

ROOT = Path(__file__).resolve().parents[1]
CLIENT_LOCK = ROOT / "locks" / "client.txt"
# What the distribution is made from; build folders of the checkout stay out of it.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "lorapar")

Command = Callable[..., "subprocess.CompletedProcess[str]"]

CHECK_IMPORTS = """
import importlib.util, sys
assert importlib.util.find_spec("torch") is None, "the client environment must not hold torch"
import lorapar.cli
from lorapar.config import load_config, preset_names
from lorapar.stages.contract import STAGE_NAMES, stage_spec
from lorapar.stages.plan import node_settings
for name in preset_names():
    node_settings(load_config(preset=name))
for name in STAGE_NAMES:
    assert stage_spec(name).name == name
heavy = {"torch", "transformers", "trl", "peft", "datasets", "pandas", "pyarrow"} & set(sys.modules)
assert not heavy, f"imported without need: {heavy}"
"""


def run(*command: str | Path) -> None:
    """Run a command that must work; its output is in the failure where it does not."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in isolation from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", folder)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A command run in a clean environment that holds the wheel and the locked client packages, and nothing else."""
    environment = tmp_path_factory.mktemp("client") / "venv"
    run(sys.executable, "-m", "venv", environment)
    uv = Path(sys.executable).with_name("uv")
    python = environment / "bin" / "python"
    installer = [uv, "pip", "install", "--python", python] if uv.exists() else [python, "-m", "pip", "install"]
    run(*installer, "--quiet", "-r", CLIENT_LOCK, wheel)

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / str(arguments[0])), *map(str, arguments[1:])]
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=environment, env=variables
        )

    return call


def test_wheel_holds_types_presets_and_licence_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.startswith(f"lorapar-{__version__}-py3-none-any")
    assert "lorapar/py.typed" in names
    assert {f"lorapar/presets/{name}.yaml" for name in preset_names()} <= names
    assert {f"lorapar/presets/studies/{name}.yaml" for name in study_names()} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests")]
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lorapar").rglob("*.py")}
    assert shipped <= names, "a module is missing from the wheel"


def test_data_files_of_the_package_are_in_the_wheel(wheel: Path) -> None:
    """Templates and style sheets are read at run time: each must be named in package-data."""
    files = {path for path in (ROOT / "lorapar").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(zipfile.ZipFile(wheel).namelist())


def test_command_works_without_torch(client: Command) -> None:
    assert client("lorapar", "--version").stdout.strip() == f"lorapar {__version__}"
    shown = client("lorapar", "--help")
    assert shown.returncode == 0, shown.stderr
    for command in ("run", "plan", "stage", "presets", "report", "partition", "doctor"):
        assert command in shown.stdout
    listed = client("lorapar", "presets")
    assert all(name in listed.stdout for name in preset_names()), listed.stdout + listed.stderr


def test_settings_and_stages_are_understood_without_torch(client: Command) -> None:
    result = client("python", "-c", CHECK_IMPORTS)
    assert result.returncode == 0, result.stderr


def test_plan_works_without_torch(client: Command, tmp_path: Path) -> None:
    result = client("lorapar", "plan", "--preset", "tiny", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "partition" in result.stdout


def test_run_without_torch_says_what_to_install(client: Command, tmp_path: Path) -> None:
    result = client("lorapar", "run", "--preset", "tiny", "--out", tmp_path / "run")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "pip install" in result.stderr
    assert "[train]" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_finished_run_is_reported_without_torch(client: Command, tiny_copy: Path) -> None:
    (tiny_copy / "report.html").unlink()
    result = client("lorapar", "report", tiny_copy)
    assert result.returncode == 0, result.stderr
    assert (tiny_copy / "report.html").is_file()
