"""Cells of the reference column: lists of right answers, also where a file or a program has turned one into a text."""

from __future__ import annotations

import csv
import json

import pytest

from lorapar.answers import is_answer
from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data
from lorapar.data.written import read_written
from lorapar.errors import BadInputError

OTHER = {"question": "1+1?", "answer": "It is two.", "reference": "2"}


def loaded(tmp_path, reference, kind="csv"):
    """What a file with one row of this reference, and another row, comes to: the reference and what was said."""
    rows = [OTHER, {"question": "Where?", "answer": "It is over there.", "reference": reference}]
    file = tmp_path / f"rows.{kind}"
    with file.open("w", encoding="utf-8", newline="") as out:
        if kind == "csv":
            writer = csv.DictWriter(out, OTHER)
            writer.writeheader()
            writer.writerows(rows)
        else:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    found = load_data(DataConfig(source=str(file), heldout=1), 7)
    return next(one.reference for one in found.examples if one.question == "Where?"), found.notes


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "written",
    [
        '["Paris", "Lutetia, in Gaul"]',
        "['Paris', 'Lutetia, in Gaul']",
        "['Paris'\n 'Lutetia, in Gaul']",
        "[ \"Paris\", 'Lutetia, in Gaul', ]",
        '["Paris", null, "", "Lutetia, in Gaul"]',
        "array(['Paris', 'Lutetia, in Gaul'],\n      dtype=object)",
        "[nan, np.str_('Paris') np.str_('Lutetia, in Gaul')]",
    ],
)
def test_a_list_that_was_written_as_a_text_is_a_list_of_right_answers(tmp_path, written, kind) -> None:
    reference, notes = loaded(tmp_path, written, kind)
    assert reference[:-1] == ("Paris", "Lutetia, in Gaul")
    assert is_answer("Paris", reference)
    assert is_answer("lutetia, in Gaul.", reference)
    assert is_answer(written, reference)  # which the row may have meant
    assert not is_answer("Gaul", reference)
    assert any("1 of 2 rows have a list written as a text in 'reference'" in note for note in notes)


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        (r'["\usepackage", "\frac{1}{2}"]', (r"\usepackage", r"\frac{1}{2}")),
        (r'["\frac{1}{2}", "\beta"]', (r"\frac{1}{2}", r"\beta")),
        (r'["a\\b", "\\frac"]', (r"a\b", r"\frac")),
        (r"['\usepackage' '\x']", (r"\usepackage", r"\x")),
        (r'["\usepackage", "\theta"]', (r"\usepackage", r"\theta")),
        ('["one\nline", "b"]', ("one\nline", "b")),
        ("['one\nline', 'b']", ("one\nline", "b")),
        (r"['one\nline', 'it\'s \xe9']", ("one\nline", "it's é")),
        (r'["one\nline", "\u00e9"]', ("one\nline", "é")),
    ],
)
def test_backslashes_and_line_breaks_in_a_written_list_are_read_as_meant(tmp_path, written, texts) -> None:
    assert loaded(tmp_path, written)[0] == (*texts, written)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "[a, b]", "['a'", "Paris", '["a"] or ["b"]', "['a''b']", "['a' ... 'z']", "$|x|$", "|x| = 3"]
)
def test_other_texts_stay_what_they_are_without_a_word(tmp_path, text) -> None:
    reference, notes = loaded(tmp_path, text)
    assert reference == text
    assert not any("written as a text" in note or "taken for" in note for note in notes)


def test_references_of_several_values_are_counted(tmp_path) -> None:
    for text in ("[1, 2]", "(1, 2), (3, 4)"):
        *_, note = loaded(tmp_path, text)[1]
        start = f"1 of 2 rows have several values as one reference (the first: '{text}'): an answer needs all of them"
        assert start in note
    others = ("1,000", "B", "2 1/2", "(1, 2)", "[0, 1)", r"$(\frac{1}{2}, 3)$")
    assert not any("several values" in note for text in others for note in loaded(tmp_path, text)[1])


@pytest.mark.parametrize("text", ["Paris|Lutetia", "Paris || Lutetia"])
def test_bars_between_texts_are_said_to_be_one_text(tmp_path, text) -> None:
    reference, notes = loaded(tmp_path, text)
    assert reference == text
    assert any("1 of 2 rows have '|' in 'reference', taken for a part of the text" in note for note in notes)


def test_a_column_that_is_answer_and_reference_is_counted_once(tmp_path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"q": f"Where is {n}?", "a": f'["{n} a", "{n} b"]'} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = ColumnMapping(question="q", answer="a", reference="a")
    found = load_data(DataConfig(source=str(file), heldout=1, columns=columns), 7)
    assert {one.answer for one in found.examples} == {"0 a", "1 a", "2 a"}
    assert any("3 of 3 rows have a list written as a text in 'a'" in note for note in found.notes)


def test_a_form_feed_in_messages_is_no_sign_of_a_list_written_by_hand() -> None:
    assert read_written(r'[{"role": "user", "content": "page 1\fpage 2\nend"}]')[0]["content"] == "page 1\fpage 2\nend"


HALF = "\ud83d hi"
HALVES = [
    ({"question": HALF, "answer": "It is two."}, "question"),
    ({"question": "1+1?", "answer": HALF}, "answer"),
    ({"question": "1+1?", "answer": "2", "reference": ["2", HALF]}, "reference"),
    ({"question": "1+1?", "correct_answer": "2", "incorrect_answers": ["3", HALF]}, "incorrect_answers"),
    ({"question": "1+1?", "choices": ["2", HALF], "answer": "A"}, "choices"),
    ({"messages": [{"role": "user", "content": HALF}, {"role": "assistant", "content": "2"}]}, "messages[0].content"),
]


@pytest.mark.parametrize(("row", "field"), HALVES, ids=[field for _, field in HALVES])
def test_half_a_character_is_a_bad_row_that_names_the_field(tmp_path, row, field) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        load_data(DataConfig(source=str(file), heldout=0), 7)
    said = (
        f"{file}:1: '{field}' has \\ud83d, half of a character that is written as two; write it whole, or take it out"
    )
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("cell", ["['a', 'b']", "['a' 'b']", '["a", "b"]'])
def test_answers_that_csv_lists_in_a_text_are_several_right_ones(tmp_path, cell) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([["question", "answer"], ["Which?", cell]])
    (example,) = load_data(DataConfig(source=str(file), heldout=0), 7).examples
    assert (example.answer, example.reference) == ("a", ("a", "b", cell))
    lines = tmp_path / "rows.jsonl"  # where a text is meant to be one
    lines.write_text(json.dumps({"question": "What is printed?", "answer": cell}) + "\n", encoding="utf-8")
    assert load_data(DataConfig(source=str(lines), heldout=0), 7).examples[0].answer == cell
