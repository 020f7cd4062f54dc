"""Benchmarks, asked through EleutherAI's lm-evaluation-harness (`lm_eval`): three built in, and any task by its name.

GSM8K, MMLU and HumanEval have each a task file here in lm-eval's own format, `<task>.yaml`, which
`lm_eval --include_path` takes as well. lm-eval builds the prompts, asks the model and scores; what it generates for
HumanEval is never run by it, but by the stage `execute`. Importable without torch and lm_eval, which are imported when
a benchmark is asked.
"""

from lorapar.evaluation.benchmarks.problems import PROBLEMS_FILE, Problem, program_of, write_problems
from lorapar.evaluation.benchmarks.rows import (
    Benchmark,
    BenchmarkRows,
    benchmark_questions,
    check_benchmarks,
    load_benchmark,
    load_rows,
    resolve_benchmarks,
)

__all__ = [
    "PROBLEMS_FILE",
    "Benchmark",
    "BenchmarkRows",
    "Problem",
    "benchmark_questions",
    "check_benchmarks",
    "load_benchmark",
    "load_rows",
    "program_of",
    "resolve_benchmarks",
    "write_problems",
]
