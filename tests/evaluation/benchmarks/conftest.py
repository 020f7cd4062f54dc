"""Small files in the shape of each benchmark, and the places of the real ones where a machine has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import BenchmarkConfig, PromptConfig
from lorapar.evaluation import TransformersEngine
from lorapar.evaluation.benchmarks import load_benchmark
from lorapar.evaluation.benchmarks.ask import Questioning, ask_all
from lorapar.progress import Silent
from tests.evaluation.benchmarks.named_tasks import ANIMALS, BASE, CAPITALS, TASKS, write_task

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


@pytest.fixture
def folder(tmp_path):
    """A folder with four task files, their rows in a folder beside them."""
    place = tmp_path / "tasks"
    (place / "data").mkdir(parents=True)
    for name, rows in (("capitals", CAPITALS), ("animals", ANIMALS)):
        (place / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, values in TASKS.items():
        write_task(place, name, values, "animals" if name == "animals" else "capitals")
    return place


@pytest.fixture(scope="module")
def base():
    return load_model(BASE)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


@pytest.fixture
def asked(base, tokenizer, tmp_path):
    def one(settings: BenchmarkConfig):
        prompts = PromptConfig(system1="Be brief.")
        how = Questioning(tokenizer, prompts, 4, tmp_path, lambda: None, Silent())
        engine = TransformersEngine(base, tokenizer, autocast=False)
        (found,) = ask_all({"base": None}, engine, [load_benchmark(settings, 0)], how)
        return found

    return one
