"""From rows to examples: mappings, checks and the split."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.config import ColumnMapping, DataConfig, TaskMixConfig
from lorapar.data import MAPPINGS, load_data, load_examples
from lorapar.data.taskmix import generate_task_mix
from lorapar.errors import BadInputError

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
GOOD = [{"question": f"{number}+1?", "answer": f"{number + 1}"} for number in range(20)]


def data(tmp_path, rows, **values):
    """Settings that read these rows from a file."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(source=str(path), **values)


def test_the_task_mix_comes_with_systems_and_splits():
    sizes = TaskMixConfig(system1_train=5, system1_heldout=4, system2_train=3, system2_heldout=2)
    examples = load_examples(DataConfig(task_mix=sizes), seed=3)
    assert [(one.known_system, one.split) for one in examples] == [
        *[("system1", "train")] * 5,
        *[("system1", "heldout")] * 4,
        *[("system2", "train")] * 3,
        *[("system2", "heldout")] * 2,
    ]
    assert [one.question for one in examples] == [row["question"] for row in generate_task_mix(**dict(sizes), seed=3)]
    assert load_examples(DataConfig(task_mix=sizes), seed=3) == examples
    assert load_examples(DataConfig(task_mix=sizes), seed=4) != examples


def test_the_task_mix_says_when_it_has_not_so_many_rows():
    with pytest.raises(BadInputError, match=r"data\.task_mix: "):
        load_examples(DataConfig(task_mix=TaskMixConfig(system1_train=10**6)), seed=0)


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"the GSM8K file is not at {GSM8K}")
def test_gsm8k_as_it_is():
    config = DataConfig(source=str(GSM8K), mapping="gsm8k", heldout=473)
    examples = load_examples(config, seed=0)
    assert len(examples) == len({one.id for one in examples}) == 7473
    assert sum(one.split == "heldout" for one in examples) == 473
    assert all(one.reference and one.reference.lstrip("-").isdigit() for one in examples)
    assert examples[0].question.startswith("Natalia sold clips")
    assert examples[0].reference == "72"
    assert examples[0].answer.endswith("#### 72")


@pytest.mark.parametrize(
    ("mapping", "row", "question", "answer", "reference"),
    [
        ("gsm8k", {"question": "q", "answer": "3 * 400\n#### 1,200 "}, "q", "3 * 400\n#### 1,200", "1200"),
        ("dolly", {"instruction": "i", "context": "c", "response": "r", "category": "x"}, "i\n\nc", "r", None),
        ("dolly", {"instruction": "i", "context": "", "response": "r"}, "i", "r", None),
        ("openplatypus", {"instruction": "i", "input": "n", "output": "o", "data_source": "x"}, "i\n\nn", "o", None),
        ("codealpaca", {"instruction": "i", "input": "", "output": "o"}, "i", "o", None),
    ],
)
def test_ready_mappings(tmp_path, mapping, row, question, answer, reference):
    (example,) = load_examples(data(tmp_path, [row], mapping=mapping, heldout=0), seed=0)
    assert (example.question, example.answer, example.reference) == (question, answer, reference)


def test_the_usual_columns_need_no_mapping(tmp_path):
    rows = [
        {"id": 7, "question": " q ", "answer": 12, "reference": "12", "system": "System 2", "other": [1]},
        {"id": "b", "question": "r", "answer": "x", "system": None},
    ]
    first, second = load_examples(data(tmp_path, rows, heldout=0), seed=0)
    assert first.model_dump(exclude={"split"}, exclude_none=True) == {
        "id": "7",
        "question": "q",
        "answer": "12",
        "reference": "12",
        "known_system": "system2",
    }
    assert (second.reference, second.known_system) == (None, None)


@pytest.mark.parametrize(
    ("columns", "text", "answer"),
    [
        (("prompt", "completion"), " blue.\n", " blue."),
        (("prompt", "completion"), "\n\nBlue.", "\n\nBlue."),
        (("prompt", "completion"), "  ", None),
        (("question", "answer"), " blue. ", "blue."),
        (("question", "answer"), "    x += 1\n    return x\n", "    x += 1\n    return x"),
        (("instruction", "output"), "\n 42\n", "42"),
    ],
)
def test_white_space_that_an_answer_begins_with_is_kept_where_it_is_a_part_of_it(tmp_path, columns, text, answer):
    config = data(tmp_path, [dict(zip(columns, ("The sky is", text), strict=True))], heldout=0)
    if answer is None:
        with pytest.raises(BadInputError, match=r"rows\.jsonl:1: a row without an answer"):
            load_examples(config, seed=0)
    else:
        assert [one.answer for one in load_examples(config, seed=0)] == [answer]


def test_columns_of_ones_own_win(tmp_path):
    columns = ColumnMapping(question="ask", answer="tell", reference_pattern=r"= (\d+)")
    rows = [{"ask": "1+1", "tell": "it = 2"}, {"ask": "hello", "tell": "world"}]
    examples = load_examples(data(tmp_path, rows, columns=columns, mapping="gsm8k", heldout=0), seed=0)
    assert [one.reference for one in examples] == ["2", None], "a row the pattern misses has no reference"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"rows\.jsonl is empty; it needs at least one row"),
        ([*GOOD, {"question": "q"}], r"rows\.jsonl:21: a row without an answer \('answer' is empty or missing\)"),
        ([*GOOD, {"question": " ", "answer": "a"}], r"rows\.jsonl:21: a row without a question"),
        ([*GOOD, {"question": "q", "answer": ["a"]}], r"rows\.jsonl:21: 'answer' is not text but list"),
        ([*GOOD, {"question": "q", "answer": True}], r"rows\.jsonl:21: 'answer' is not text but bool"),
        ([*GOOD, {"question": "3  +1?", "answer": "x"}, {"question": "3 +1?", "answer": "x"}],
         r"rows\.jsonl:22: asks the same question as .*rows\.jsonl:21"),
        ([{**row, "id": "same"} for row in GOOD], r"rows\.jsonl:2: has the same id 'same' as .*rows\.jsonl:1"),
        ([{**GOOD[0], "system": "sistem1"}], r"rows\.jsonl:1: 'system' is 'sistem1' \(did you mean 'system1'\?\)"),
    ],
)  # fmt: skip
def test_bad_rows_are_one_line_with_their_place(tmp_path, rows, message):
    with pytest.raises(BadInputError, match=message) as caught:
        load_data(data(tmp_path, rows), seed=0)
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out(tmp_path):
    rows = [*GOOD, {"question": "q", "answer": ""}, GOOD[3]]
    loaded = load_data(data(tmp_path, rows, bad_rows="leave_out"), seed=0)
    assert [one.question for one in loaded.examples] == [row["question"] for row in GOOD]
    assert [line.split(": ")[1][:18] for line in loaded.left_out] == ["a row without an a", "asks the same ques"]
    with pytest.raises(BadInputError, match=r"no usable row; the first: .*a row without an answer"):
        load_data(data(tmp_path, [{"question": "q", "answer": ""}], bad_rows="leave_out"), seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"columns": ColumnMapping(question="qestion")},
         r"data\.columns\.question: .*rows\.jsonl has no column 'qestion' \(did you mean 'question'\?\); it has: qu"),
        ({"columns": ColumnMapping(context="context")}, r"data\.columns\.context: .* has no column 'context'"),
        ({"mapping": "dolly"},
         r"data\.columns\.question: .* has no column 'instruction' \(did you mean 'question'\?\); .*; name the"),
        ({"columns": ColumnMapping(question="prompt")}, r"has no column 'prompt' \(did you mean 'question'\?\)"),
        ({"mapping": "gsmk8"}, r"data\.mapping: no mapping is called 'gsmk8' \(did you mean 'gsm8k'\?\); known: gsm"),
        ({"mapping": "gsm8k"}, r"reference_pattern: '####.* matches no answer of .*; the first one ends in '1'"),
        ({"columns": ColumnMapping(reference_pattern="(")}, r"reference_pattern: '\(' is not a regular expression: "),
        ({"columns": ColumnMapping(reference_pattern="x")}, r"reference_pattern: 'x' has no group"),
        ({"heldout": 20}, r"data\.heldout: holding out 20 of 20 rows leaves none to train on"),
        ({"heldout": 2.5}, r"data\.heldout: 2\.5 is neither a share below 1 nor a whole number of rows"),
        ({"subset": "main"}, r"data\.subset: does nothing for a local file; leave it out"),
        ({"revision": "v1"}, r"data\.revision: does nothing for a local file; leave it out"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_data(tmp_path, values, message):
    with pytest.raises(BadInputError, match=message):
        load_data(data(tmp_path, GOOD, **values), seed=0)


def test_limit_reads_the_first_rows_only(tmp_path):
    rows = [*GOOD[:4], {"question": "broken"}]
    assert len(load_examples(data(tmp_path, rows, limit=4), seed=0)) == 4


@given(heldout=st.integers(0, 19) | st.floats(0.01, 0.9), seed=st.integers(0, 99), order=st.permutations(range(20)))
def test_the_split_depends_on_seed_and_question_only(tmp_path_factory, heldout, seed, order):
    tmp_path = tmp_path_factory.getbasetemp()
    config = data(tmp_path, GOOD, heldout=heldout)
    straight = {one.question: one.split for one in load_examples(config, seed)}
    shuffled = load_examples(data(tmp_path, [GOOD[place] for place in order], heldout=heldout), seed)
    assert {one.question: one.split for one in shuffled} == straight
    wanted = heldout if heldout >= 1 or heldout == 0 else max(1, round(heldout * 20))
    assert list(straight.values()).count("heldout") == wanted


def test_another_seed_holds_out_other_rows(tmp_path):
    config = data(tmp_path, GOOD, heldout=5)
    chosen = {frozenset(one.id for one in load_examples(config, seed) if one.split == "heldout") for seed in range(5)}
    assert len(chosen) == 5


def test_the_settings_name_the_ready_mappings():
    described = DataConfig.model_fields["mapping"].description or ""
    assert all(name in described for name in MAPPINGS)


def test_a_list_in_the_reference_column_holds_right_answers(tmp_path):
    rows = [
        {"question": "Who wrote it?", "answer": "Cicero did.", "reference": ["Cicero", " Tully ", "Cicero", None]},
        {"question": "How many?", "answer": "4", "reference": [4.0]},
        {"question": "Which?", "answer": "none", "reference": []},
    ]
    found = [one.reference for one in load_examples(data(tmp_path, rows, heldout=1), seed=0)]
    assert found == [("Cicero", "Tully"), "4", None]
    rows[0]["reference"] = [["Cicero"]]
    with pytest.raises(BadInputError, match=r"rows\.jsonl:1: 'reference' is not text but list"):
        load_examples(data(tmp_path, rows), seed=0)
    rows[0] |= {"reference": "Cicero", "answer": ["Cicero did."]}
    with pytest.raises(BadInputError, match="'answer' is not text but list; only the reference may be a list"):
        load_examples(data(tmp_path, rows), seed=0)


def test_cells_without_a_value_are_empty(tmp_path):
    rows = [
        {"question": "2+2?", "answer": "4", "reference": float("nan")},
        {"question": "2+3?", "answer": 5.0, "reference": 5.0},
        {"question": "2+4?", "answer": "6", "reference": "<NA>"},
        {"question": "2+5?", "answer": "None", "reference": None},
    ]
    loaded = load_data(data(tmp_path, rows, heldout=1), seed=0)
    assert [(one.answer, one.reference) for one in loaded.examples] == [
        ("4", None), ("5", "5"), ("6", None), ("None", None),
    ]  # fmt: skip
    assert loaded.blank_texts == {"reference": 1}
    rows[2]["answer"] = float("nan")
    with pytest.raises(BadInputError, match=r"rows\.jsonl:3: a row without an answer"):
        load_examples(data(tmp_path, rows, heldout=1), seed=0)
    kept = load_data(data(tmp_path, rows, heldout=1, bad_rows="leave_out"), seed=0)
    assert len(kept.examples) == 3
    assert len(kept.left_out) == 1
    rows[2]["answer"] = float("inf")
    with pytest.raises(BadInputError, match="'answer' is inf"):
        load_examples(data(tmp_path, rows, heldout=1), seed=0)


@pytest.mark.parametrize(("third", "expected"), [("", ["4", "5", None]), ("7.0", ["4.0", "5.0", "7.0"])])
def test_whole_numbers_that_a_gap_made_floats_of_are_whole_again(tmp_path, third, expected):
    path = tmp_path / "rows.csv"
    path.write_text(f"question,answer,reference\n2+2?,four,4.0\n2+3?,five,5.0\n2+5?,seven,{third}\n", encoding="utf-8")
    examples = load_examples(DataConfig(source=str(path), heldout=1), seed=0)
    assert [one.reference for one in examples] == expected


def test_missing_values_of_a_parquet_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"question": ["a?", "b?"], "answer": ["4", "5"], "reference": pa.array([4.0, float("nan")])}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    examples = load_examples(DataConfig(source=str(tmp_path / "rows.parquet"), heldout=1), seed=0)
    assert [one.reference for one in examples] == ["4", None]


def test_rows_beyond_the_limit_are_known(tmp_path):
    assert load_data(data(tmp_path, GOOD, limit=5), seed=0).more
    assert not load_data(data(tmp_path, GOOD, limit=20), seed=0).more


@pytest.mark.parametrize("text", ["null", "None", "N/A", "-", "?"])
def test_a_cell_that_may_mean_nothing_is_taken_as_it_stands_and_reported(text: str, tmp_path) -> None:
    rows = [
        {"question": f"q{number}?", "answer": text if number == 1 else "a", "reference": "r"} for number in range(3)
    ]
    loaded = load_data(data(tmp_path, rows, heldout=1), seed=1)
    assert {row.answer for row in loaded.examples} == {"a", text}
    assert (
        f"1 of 3 rows have '{text}' as their 'answer', taken for that text; empty the cell where nothing is meant"
        in loaded.notes
    )


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\u00a0", "\u3000", "\u200e \u2060"])
def test_a_cell_of_characters_that_show_nothing_is_empty(text: str, tmp_path) -> None:
    rows = [{"question": f"q{number}?", "answer": text if number == 1 else "a"} for number in range(3)]
    with pytest.raises(BadInputError, match=r":2: a row without an answer"):
        load_data(data(tmp_path, rows, heldout=1), seed=1)
