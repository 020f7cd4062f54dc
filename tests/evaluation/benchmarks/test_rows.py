"""Rows of benchmarks: addresses, checks that name file and line, draws by the seed, worked examples kept apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorapar.config import BenchmarkConfig, EvaluateConfig, load_config
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import load_rows, resolve_benchmarks
from lorapar.stages.plan import make_plan


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


CODE = {"task_id": "x", "prompt": "def f(a):\n", "test": "def check(candidate):\n    pass\n", "entry_point": "f"}
LAW = {"subject": "law", "question": "?", "choices": ["a", "b", "c", "d", "e"], "answer": 4}


@pytest.mark.parametrize(
    ("task", "row", "complaint"),
    [
        (
            "gsm8k",
            {"question": "1?", "answer": "so 2"},
            r"bad\.jsonl:1: answer ends in 'so 2'; put the number",
        ),
        ("gsm8k", {"question": "1?", "answer": 2}, "answer is 2; give a text"),
        ("gsm8k", {"question": " ", "answer": "#### 2"}, "question is empty"),
        ("gsm8k", {"Question": "1?", "answer": "#### 2"}, r"no column question \(did you mean 'Question'\?\)"),
        (
            "mmlu",
            {**LAW, "choices": ["a"], "answer": 0},
            r":1: choices has 1; give 2 to 26 of them \(a row of",
        ),
        ("mmlu", {**LAW, "choices": "a"}, "choices is 'a'; give a list of texts"),
        ("mmlu", {**LAW, "choices": ["a", None]}, r"choices\[1\] is None; give a text"),
        ("mmlu", {**LAW, "answer": "F"}, "answer is 'F'; use a letter A to E or a number 0 to 4"),
        ("mmlu", {**LAW, "answer": 5}, "answer is 5; use a letter A to E or a number 0 to 4"),
        ("mmlu", {**LAW, "answer": None}, "answer is empty"),
        ("humaneval", {**CODE, "entry_point": "a b"}, "entry_point is 'a b', which is not a function's name"),
        ("humaneval", {**CODE, "entry_point": "g"}, "prompt defines no function g, which entry_point names"),
        ("humaneval", {**CODE, "test": "assert f(1)"}, r"test defines no function check\(candidate\)"),
        (
            "humaneval",
            {**CODE, "test": "def check(candidate):"},
            "test is not valid Python: expected an indented block",
        ),
        ("humaneval", {**CODE, "prompt": 'def f(a, b)\n    """Add."""\n'}, "prompt is not valid Python: expected ':'"),
        (
            "humaneval",
            {**CODE, "prompt": "def f(a, b):\n  x = 1\n    y = 2\n"},
            "prompt is not valid Python: unexpected indent",
        ),
    ],
)
def test_a_bad_row_is_named_in_words_and_by_plan(task, row, complaint, tmp_path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row))
    config = BenchmarkConfig(task=task, data=str(path))
    with pytest.raises(BadInputError, match=complaint):
        load_rows(config, seed=0)
    with pytest.raises(BadInputError, match=complaint):
        make_plan(load_config(preset="tiny").model_copy(update={"evaluate": EvaluateConfig(benchmarks=(config,))}))


@pytest.mark.parametrize("answer", ["c", "C", "(c)", "C.", "2", "2.0", 2, 2.0])
def test_the_right_choice_by_letter_or_number(answer, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**LAW, "answer": answer}))
    (row,) = load_rows(BenchmarkConfig(task="mmlu", data=str(path)), seed=0).rows
    assert (row["answer"], len(row["choices"])) == (2, 5)


@pytest.mark.parametrize("choices", ['[""a"", ""b""]', "['a' 'b']", "array(['a', 'b'], dtype=object)"])
def test_a_csv_file_has_its_choices_as_text(choices, tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'subject,question,choices,answer\nlaw,?,"{choices}",b\n')
    (row,) = load_rows(BenchmarkConfig(task="mmlu", data=str(path)), seed=0).rows
    assert (row["choices"], row["answer"]) == (["a", "b"], 1)


def test_rows_that_are_there_twice_and_a_limit_above_all_rows_are_reported(benchmark, benchmark_files) -> None:
    path = Path(benchmark_files["gsm8k"])
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    twice, limit = load_rows(benchmark("gsm8k", limit=50), seed=0).remarks
    assert twice.startswith("gsm8k: 1 of 7 rows repeat an earlier one, and count twice; the first: ")
    assert "gsm8k.jsonl:7 repeats " in twice
    assert limit == "gsm8k: limit is 50, but there are 7 rows: all are asked"
    assert (
        load_rows(benchmark("gsm8k", limit=3), seed=0).remarks[1] == "gsm8k: limit is 3, so 3 of its 7 rows are asked"
    )
    assert len(load_rows(benchmark("gsm8k", limit=7), seed=0).remarks) == 1
    with Path(benchmark_files["humaneval"]).open("a") as file:
        file.write(json.dumps({**CODE, "task_id": "HumanEval/1"}) + "\n")
    with pytest.raises(BadInputError, match=r"humaneval\.jsonl:4: task_id is 'HumanEval/1' as in .*humaneval\.jsonl:2"):
        load_rows(benchmark("humaneval"), seed=0)


def test_worked_examples_that_leave_nothing_or_a_subject_without_them_are_refused(benchmark, tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"gsm8k has no row to ask: few_shot 6 takes all 6 of "):
        load_rows(benchmark("gsm8k", few_shot=6), seed=0)
    shots = tmp_path / "shots.jsonl"
    shots.write_text(json.dumps({**LAW, "question": "another?"}))
    with pytest.raises(BadInputError, match="mmlu of high_school_physics has fewer worked examples than 1: 0 in "):
        load_rows(benchmark("mmlu", few_shot=1, few_shot_data=str(shots)), seed=0)
    with pytest.raises(ValidationError, match="the hub has 5 worked examples of each subject of mmlu"):
        BenchmarkConfig(task="mmlu", few_shot=6)


def test_an_empty_file_and_one_that_is_not_json_are_named_as_the_benchmarks(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    with pytest.raises(BadInputError, match=r"evaluate\.benchmarks: mmlu has no row to ask: .*rows\.jsonl is empty"):
        load_rows(BenchmarkConfig(task="mmlu", data=str(path)), seed=0)
    path.write_text("{")
    with pytest.raises(BadInputError, match=r"^evaluate\.benchmarks: mmlu: .*rows\.jsonl:1: not JSON"):
        load_rows(BenchmarkConfig(task="mmlu", data=str(path)), seed=0)
    (tmp_path / "rows.txt").write_text("a")
    with pytest.raises(BadInputError, match=r"^evaluate\.benchmarks: mmlu: .*rows\.txt: cannot read '\.txt' files"):
        load_rows(BenchmarkConfig(task="mmlu", data=str(tmp_path / "rows.txt")), seed=0)


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
