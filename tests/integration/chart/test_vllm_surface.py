"""The chart against the real vLLM: its options, its metrics, and every argument list that a profile renders."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.helm.test_commands import LINES, SERVER

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
TOOL = ROOT / "tests" / "helm" / "vllm_surface.py"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make vllm-env` makes the environment with vLLM")


def ask(*options: str, given: str = "") -> str:
    done = subprocess.run(
        [PYTHON, TOOL, *options], capture_output=True, text=True, input=given, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_recorded_surface_is_that_of_the_installed_vllm() -> None:
    recorded = json.loads((ROOT / "tests" / "helm" / "vllm_surface.json").read_text(encoding="utf-8"))
    found = json.loads(ask())
    assert found == recorded, "write tests/helm/vllm_surface.json again with tests/helm/vllm_surface.py"


def test_the_real_parser_takes_every_rendered_argument_list() -> None:
    rendered = [words[3:] for words, _ in LINES.values() if words[:3] == SERVER]
    assert len(rendered) > 5
    assert json.loads(ask("--parse", given=json.dumps(rendered))) == []


def test_the_real_parser_refuses_what_is_not_there() -> None:
    wrong = [["--model=a", "--max-lora-ranks=8"], ["--model=a", "--dtype=int3"]]
    assert len(json.loads(ask("--parse", given=json.dumps(wrong)))) == 2
