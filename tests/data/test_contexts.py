"""What a question is about stands below it, whatever the columns are called; columns that are not read are named."""

import csv
import json

import pytest

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data

ABOUT = "Cod swim, as do carp, and neither of them barks."


def load(tmp_path, row, **values):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return load_data(DataConfig(source=str(path), heldout=0, **values), seed=0)


@pytest.mark.parametrize(
    ("question", "context", "answer"),
    [
        ("instruction", "input", "answer"),
        ("instruction", "input", "response"),
        ("instruction", "context", "output"),
        ("instruction", "passage", "response"),
        ("prompt", "context", "response"),
        ("prompt", "context", "completion"),
        ("prompt", "input", "answer"),
        ("prompt", "input", "output"),
        ("prompt", "article", "solution"),
        ("input", "context", "output"),
        ("user", "context", "assistant"),
    ],
)
def test_what_a_question_is_about_is_asked_with_any_pair(tmp_path, question, context, answer):
    found = load(tmp_path, {question: "Which swim?", context: ABOUT, answer: "Cod and carp do, both of them."})
    assert [(one.question, one.answer) for one in found.examples] == [
        (f"Which swim?\n\n{ABOUT}", "Cod and carp do, both of them.")
    ]
    assert f"'{question}' with '{context}' below it is the question" in found.notes[0]
    assert "not read" not in found.notes[0]


def test_a_context_that_the_question_has_in_itself_is_asked_once(tmp_path):
    for question in (f"{ABOUT} Which swim?", [{"role": "user", "content": f"{ABOUT} Which swim?"}]):
        found = load(tmp_path, {"prompt": question, "context": ABOUT, "completion": "Cod."})
        assert found.examples[0].question == f"{ABOUT} Which swim?"


def test_a_context_beside_messages_stands_below_the_last_of_them(tmp_path):
    row = {"prompt": [{"role": "user", "content": "Which swim?"}], "context": ABOUT, "completion": "Cod."}
    assert load(tmp_path, row).examples[0].question == f"Which swim?\n\n{ABOUT}"


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"question": "1+1?", "answer": "2", "hint": "Count.", "level": 3}, "hint"),
        ({"instruction": "Do.", "input": "a", "context": "b", "output": "c"}, "context"),
        ({"Question": "1+1?", "Answer": "2", "My Hint": "Count."}, "My Hint"),
        ({"question": "is 2 even", "answer": True, "title": "Two"}, "title"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "topic": "c"},
            "topic",
        ),
        (
            {"question": "1+1?", "answer": "2"} | {f"c{n}": "x" for n in range(9)},
            "c0, c1, c2, c3, c4, c5, c6, c7 and 1 more",
        ),
    ],
)
def test_columns_of_texts_that_are_not_read_are_named(tmp_path, row, names):
    assert load(tmp_path, row).notes[0].endswith(f"; not read: {names}")


@pytest.mark.parametrize(("cell", "shown"), [("['p 1', 'p 2']", "p 1\n\np 2"), ("[['a', 'b.'], ['c']]", "a b.\n\nc")])
def test_paragraphs_that_csv_lists_in_a_text_are_read(tmp_path, cell, shown):
    path = tmp_path / "rows.csv"

    def asked(question, context, **values):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([[question, context, "output"], ["Which?", cell, "Cod."]])
        return load_data(DataConfig(source=str(path), heldout=0, **values), seed=0).examples[0].question

    assert asked("instruction", "context") == f"Which?\n\n{shown}"
    # A list that something is to be done with is one, and so is what the settings name.
    assert asked("instruction", "input") == f"Which?\n\n{cell}"
    columns = ColumnMapping(question="instruction", context="context", answer="output")
    assert asked("instruction", "context", columns=columns) == f"Which?\n\n{cell}"
