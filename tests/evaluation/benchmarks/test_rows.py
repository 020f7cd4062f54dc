"""Rows of benchmarks: addresses, checks that name file and line, draws by the seed, worked examples kept apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import load_rows, resolve_benchmarks


def test_worked_examples_from_the_same_file_are_not_asked(benchmark) -> None:
    loaded = load_rows(benchmark("gsm8k", few_shot=2), seed=0)
    asked, shots = {row["id"] for row in loaded.rows}, {row["id"] for row in loaded.shots}
    assert (len(asked), len(shots)) == (4, 2)
    assert not asked & shots


def test_mmlu_takes_the_first_rows_of_each_subject(benchmark) -> None:
    loaded = load_rows(benchmark("mmlu", few_shot=2), seed=0)
    assert [(row["subject"], row["question"]) for row in loaded.shots] == [
        (subject, question) for subject in ("high_school_physics", "law") for question in ("0?", "1?")
    ]
    assert len(loaded.rows) == 6


def test_a_limit_is_drawn_by_the_seed_and_ids_stay(benchmark) -> None:
    def drawn(seed: int) -> list[str]:
        return [row["id"] for row in load_rows(benchmark("gsm8k", limit=3), seed).rows]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1
    everything = {row["id"] for row in load_rows(benchmark("gsm8k"), 0).rows}
    assert set(drawn(1)) < everything


def test_gzip_and_separate_worked_examples(benchmark, benchmark_files, tmp_path) -> None:
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(benchmark_files["gsm8k"]).read_bytes()))
    loaded = load_rows(benchmark("gsm8k", few_shot=1, few_shot_data=str(packed)), seed=0)
    # A worked example is not asked as well, wherever it came from.
    assert len(loaded.rows) == 5
    assert len(loaded.shots) == 1


@pytest.mark.parametrize(
    ("task", "row", "complaint"),
    [
        ("gsm8k", {"question": "1?", "answer": "2"}, r"bad\.jsonl:1: not a gsm8k row: answer"),
        ("mmlu", {"subject": "law", "question": "?", "choices": ["a"], "answer": 0}, r":1: not a mmlu row: choices"),
        ("mmlu", {"subject": "law", "question": "?", "choices": list("abcd"), "answer": "E"}, r"mmlu row: answer"),
        ("humaneval", {"task_id": "x", "prompt": "", "test": "", "entry_point": "a b"}, r"humaneval row: entry_point"),
    ],
)
def test_a_bad_row_is_named(task, row, complaint, tmp_path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(BadInputError, match=complaint):
        load_rows(BenchmarkConfig(task=task, data=str(path)), seed=0)


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"evaluate\.benchmarks: .*nothing\.jsonl cannot be read: No such file"):
        load_rows(BenchmarkConfig(task="gsm8k", data=str(tmp_path / "nothing.jsonl")), seed=0)
    (tmp_path / "no.jsonl.gz").write_bytes(b"text")
    with pytest.raises(BadInputError, match="is not a gzip file"):
        load_rows(BenchmarkConfig(task="gsm8k", data=str(tmp_path / "no.jsonl.gz")), seed=0)


def test_too_few_worked_examples_are_an_error(benchmark) -> None:
    with pytest.raises(BadInputError, match="mmlu of high_school_physics has fewer worked examples than 6"):
        load_rows(benchmark("mmlu", few_shot=6), seed=0)


def test_plan_fills_in_a_digest_and_changed_rows_are_refused(benchmark, benchmark_files) -> None:
    (planned,) = resolve_benchmarks(EvaluateConfig(benchmarks=(benchmark("gsm8k"),))).benchmarks
    assert load_rows(planned, seed=0).rows
    with Path(benchmark_files["gsm8k"]).open("a") as file:
        file.write('{"question": "more?", "answer": "#### 1"}\n')
    (again,) = resolve_benchmarks(EvaluateConfig(benchmarks=(benchmark("gsm8k"),))).benchmarks
    assert again.digest != planned.digest
    with pytest.raises(BadInputError, match="rows of gsm8k are not those that plan saw; plan again"):
        load_rows(planned, seed=0)


def test_settings_that_would_do_nothing_are_refused(benchmark) -> None:
    with pytest.raises(ValidationError, match="humaneval has no worked examples"):
        BenchmarkConfig(task="humaneval", few_shot=1)
    with pytest.raises(ValidationError, match="few_shot_data: does nothing"):
        BenchmarkConfig(task="gsm8k", few_shot=1, few_shot_data="x.jsonl")
    with pytest.raises(ValidationError, match="gsm8k is named twice"):
        EvaluateConfig(benchmarks=(benchmark("gsm8k"), benchmark("gsm8k")))


def test_the_real_files_are_read(real_data) -> None:
    gsm8k, humaneval = (
        load_rows(BenchmarkConfig(task=task, data=str(real_data(name))), seed=0)
        for task, name in (("gsm8k", "gsm8k/train.jsonl"), ("humaneval", "humaneval/HumanEval.jsonl.gz"))
    )
    assert (len(gsm8k.rows), len(humaneval.rows)) == (7473, 164)
    assert len({row["id"] for row in gsm8k.rows}) == 7473
