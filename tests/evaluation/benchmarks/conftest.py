"""Small files in the shape of each benchmark, and the places of the real ones where a machine has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorapar.config import BenchmarkConfig

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def shared_file(name: str) -> Path:
    """A file of real data beside the project, or a skip that says so."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the real data {name} is not beside this project on this machine")
    return path


def write(path: Path, rows: list[dict]) -> str:
    """A JSON Lines file; returns its address."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def benchmark_files(tmp_path):
    """By benchmark, the address of a small file in its shape."""
    return {
        "gsm8k": write(
            tmp_path / "gsm8k.jsonl",
            [{"question": f"{n}+2?", "answer": f"{n}+2={n + 2}\n#### {n + 2}"} for n in range(6)],
        ),
        "mmlu": write(
            tmp_path / "mmlu.jsonl",
            [
                {"subject": subject, "question": f"{n}?", "choices": ["a", "b", "c", "d"], "answer": n % 4}
                for subject in ("high_school_physics", "law")
                for n in range(5)
            ],
        ),
        "humaneval": write(
            tmp_path / "humaneval.jsonl",
            [
                {
                    "task_id": f"HumanEval/{n}",
                    "prompt": f"def add{n}(a):\n",
                    "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
                    "entry_point": f"add{n}",
                }
                for n in range(3)
            ],
        ),
    }


@pytest.fixture
def benchmark(benchmark_files):
    """Settings of a benchmark that reads its small file."""

    def made(task: str, **settings) -> BenchmarkConfig:
        return BenchmarkConfig.model_validate({"task": task, "data": benchmark_files[task], **settings})

    return made


@pytest.fixture
def real_data():
    """The address of a real file, by its name below the shared folder; skips where it is missing."""
    return shared_file
