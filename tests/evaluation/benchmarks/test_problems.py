"""Programs of HumanEval in the real sandbox: the solutions that come with it pass, an empty one fails."""

from __future__ import annotations

import gzip
import json

from lorapar.evaluation.benchmarks import Problem, program_of
from lorapar.evaluation.sandbox import Limits, SandboxPool

EVERY = 7
"""One problem in so many, to keep this short; all 164 were run once by hand."""


def test_the_solutions_that_come_with_the_problems_pass(real_data) -> None:
    with gzip.open(real_data("humaneval/HumanEval.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][::EVERY]
    problems = [
        Problem(
            benchmark="humaneval",
            example_id=row["task_id"],
            prompt=row["prompt"],
            test=row["test"],
            entry_point=row["entry_point"],
        )
        for row in rows
    ]
    right = [program_of(problem, row["canonical_solution"]) for problem, row in zip(problems, rows, strict=True)]
    wrong = [program_of(problem, "    return None\n") for problem in problems[:3]]
    with SandboxPool(Limits(wall_seconds=30), "strict", workers=2) as pool:
        outcomes = dict(pool.outcomes([*right, *wrong]))
    assert {place for place, outcome in outcomes.items() if outcome.passed} == set(range(len(right)))
