"""Problems whose answers are code: what is needed to run an answer, handed from `evaluate` to `execute`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lorapar.evaluation.benchmarks.rows import Benchmark, BenchmarkRows
from lorapar.records import Record, write_records

PROBLEMS_FILE = "problems.jsonl"
"""One problem a line, in an evaluation's folder; absent where no answer is code."""


class Problem(Record):
    """A HumanEval problem without its solution."""

    benchmark: str
    example_id: str
    prompt: str
    """The beginning of a module that the model was asked to continue."""
    test: str
    """Source that defines `check(candidate)`."""
    entry_point: str
    """Name of the function that is checked."""


def program_of(problem: Problem, answer: str) -> str:
    """A program that runs to its end where the answer passes the problem's tests."""
    return f"{problem.prompt}{answer}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


def write_problems(folder: Path, benchmarks: Iterable[Benchmark]) -> None:
    """Write the problems of every benchmark whose answers are code; no file where there is none."""
    problems = [
        Problem(
            benchmark=benchmark.name,
            example_id=row["id"],
            prompt=row["prompt"],
            test=row["test"],
            entry_point=row["entry_point"],
        )
        for benchmark in benchmarks
        if isinstance(benchmark, BenchmarkRows) and benchmark.name == "humaneval"
        for row in benchmark.rows
    ]
    if problems:
        write_records(folder / PROBLEMS_FILE, problems)
