"""What every test shares: quiet threads, and one real run of the tiny preset that many tests look at."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a thread of it would be lost in a fork of the warm command
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest

from tests.temporary_folder import TemporaryFolder
from tests.warm import WarmCommand

_temporary = TemporaryFolder()


def pytest_runtest_logfinish(nodeid: str) -> None:
    _temporary.look(nodeid)


def pytest_collection_finish() -> None:
    """What tests import stays, so the collector, which every stage calls at its end, need not look through it."""
    gc.collect()
    gc.freeze()


_left: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """A worker of pytest-xdist has ended: keep what it says its tests left."""
    _left.extend(getattr(node, "workeroutput", {}).get("left", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The session fails where the tests have left something in the temporary directory."""
    left = _left + _temporary.close()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = left
    elif left and not session.config.option.collectonly:
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED
        report = session.config.pluginmanager.get_plugin("terminalreporter")
        report.section("left in the temporary directory", red=True)
        for line in left:
            report.line(line)


_warm: list[WarmCommand] = []


def run_cli(*arguments: str | Path, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Call the `lorapar` command in a process of its own, as a person would.

    `lorapar run` and `plan` are forks of a process that has imported all, because four fifths of them are imports here;
    every other command is a process from its start, and so is one for which a test sets a variable that imports read.
    """
    if arguments[:1] in (("run",), ("plan",)):
        if not _warm:
            _warm.append(WarmCommand({}))
        if _warm[0].suits(os.environ):
            return _warm[0].run(arguments, timeout_seconds)
    command = [sys.executable, "-m", "lorapar.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL
    )


def hears_ctrl_c() -> None:
    """For a started process: a test suite in the background is deaf to SIGINT, and what it starts inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def start_cli():
    """Start the `lorapar` command and go on, so that a test can send it signals."""

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lorapar.cli", *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
        )

    return start


@pytest.fixture(scope="session")
def cli():
    """The `lorapar` command."""
    return run_cli


@pytest.fixture(scope="session")
def make_family():
    """Builds a random model of a family in tests/families.yaml, the same every time: make_family("gpt2")."""
    import torch
    import yaml
    from transformers import AutoConfig, AutoModelForCausalLM

    table = yaml.safe_load((Path(__file__).parent / "families.yaml").read_text(encoding="utf-8"))

    def make(family: str):
        values = {key: value for key, value in table["families"][family].items() if key != "vllm"}
        merged = {**table["shared"].get(values.pop("like", ""), {}), **values}
        config = AutoConfig.for_model(family, **{key: value for key, value in merged.items() if value is not None})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(config).float().eval()

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of one finished `lorapar run --preset tiny`; look, do not touch."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    result = run_cli("run", "--preset", "tiny", "--out", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "console.txt").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the finished tiny run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))
