"""Cells of the reference column: lists of right answers, also where a file or a program has turned one into a text."""

from __future__ import annotations

import csv
import json

import pytest

from lorapar.answers import is_answer
from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data

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
    assert not any("reference" in note for note in notes)


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
