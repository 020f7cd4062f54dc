"""Tables at a terminal take its width; in a log, which has none, their cells are not broken at 80 columns."""

import os
import subprocess
import sys

from lorapar.cli.base import Screen
from lorapar.doctor import Finding, doctor_table


def plan(tmp_path, **environment: str) -> list[str]:
    command = [sys.executable, "-m", "lorapar", "plan", "--preset", "tiny", "--out", str(tmp_path / "run")]
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        command,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [line for line in done.stdout.splitlines() if "publish" in line.split()[:1]]


def test_a_log_has_whole_lines(tmp_path):
    assert "after partition, prepare, rl, tally, vote-first, vote-rest" in plan(tmp_path)[0]


def test_columns_of_the_environment_are_kept_to(tmp_path):
    assert len(plan(tmp_path, COLUMNS="60")[0]) <= 60


def test_brackets_and_colons_of_names_are_no_markup(capsys):
    out = Screen()
    out.print(doctor_table([Finding("torch", ":bug: [b]", "pip install 'lorapar[train]'", missing=True)]))
    out.print("run [red]")
    shown = capsys.readouterr().out
    assert ":bug: [b]" in shown
    assert "pip install 'lorapar[train]'" in shown
    assert "run [red]" in shown
