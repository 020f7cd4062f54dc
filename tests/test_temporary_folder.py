"""The check that ends every session of these tests, tried on a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from tests.conftest import pytest_runtest_logfinish, pytest_sessionfinish  # noqa: F401
"""
TESTS = """
import subprocess, sys, tempfile
from pathlib import Path

def test_clean(tmp_path):
    with tempfile.TemporaryDirectory():
        (tmp_path / "kept by pytest").touch()

def test_leaves_a_folder():
    LEAVES
"""


@pytest.mark.parametrize(
    ("leaves", "code"),
    [
        ("tempfile.mkdtemp(prefix='left-')", 1),
        (
            "subprocess.run([sys.executable, '-c', \"import tempfile; tempfile.mkdtemp(prefix='left-')\"], check=True)",
            1,
        ),
        ("Path(tempfile.mkdtemp(prefix='left-')).rmdir()", 0),
    ],
    ids=["in this process", "in another one", "removed again"],
)
def test_a_session_that_leaves_something_fails_names_it_and_removes_it(leaves: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS.replace("LEAVES", leaves), encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["PYTEST_DEBUG_TEMPROOT"] = str(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_it.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert ("test_it.py::test_leaves_a_folder" in done.stdout) is bool(code)
    assert not list((tmp_path / "temporary").iterdir())
