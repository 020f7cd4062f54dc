"""Rows with choices and with truth values, each data set as it comes: what is asked, and the letter that is learned."""

import csv
import json

import pytest

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data
from lorapar.errors import BadInputError

ASKED = "Which lives in water?"
TEXTS = ["cat", "cow", "cod", "dog"]
LISTED = "A. cat\nB. cow\nC. cod\nD. dog"
WHOLE = f"{ASKED}\n\n{LISTED}"
LABELS = ["A", "B", "C", "D"]
FILLER = {"question": "And on land?", "choices": TEXTS, "answer": 0}
"""A row whose place 0 shows that places are counted from 0."""


def load(tmp_path, *rows, **values):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_data(DataConfig(source=str(path), heldout=0, **values), seed=0)


ROWS = {
    "mmlu": {"question": ASKED, "subject": "zoo", "choices": TEXTS, "answer": 2},
    "mmlu in json text": {"question": ASKED, "choices": json.dumps(TEXTS), "answer": "2"},
    "mmlu by letter": {"question": ASKED, "choices": TEXTS, "answer": "C"},
    "mmlu-pro": {"question": ASKED, "options": TEXTS, "answer": "C", "answer_index": 2, "cot_content": "Fish swim."},
    "arc": {"id": "x", "question": ASKED, "choices": {"text": TEXTS, "label": LABELS}, "answerKey": "C"},
    "arc by numbers": {"question": ASKED, "choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]}, "answerKey": "3"},
    "arc of 2018": {
        "question": {"stem": ASKED, "choices": [{"text": t, "label": m} for t, m in zip(TEXTS, LABELS, strict=True)]},
        "answerKey": "C",
    },
    "openbookqa": {"question_stem": ASKED, "choices": {"text": TEXTS, "label": LABELS}, "answerKey": "C"},
    "hellaswag": {"ind": 3, "ctx": ASKED, "endings": TEXTS, "label": "2", "split": "train"},
    "c-eval": {"id": 1, "question": ASKED, **dict(zip(LABELS, TEXTS, strict=True)), "answer": "C", "explanation": ""},
    "capital columns": {"Question": ASKED, **dict(zip(LABELS, TEXTS, strict=True)), "Answer": "c"},
    "medmcqa": {"question": ASKED, "opa": "cat", "opb": "cow", "opc": "cod", "opd": "dog", "cop": 2, "exp": None},
    "medqa": {"question": ASKED, "answer": "cod", "options": dict(zip(LABELS, TEXTS, strict=True)), "answer_idx": "C"},
    "aqua-rat": {"question": ASKED, "options": ["A)cat", "B)cow", "C)cod", "D)dog"], "rationale": "…", "correct": "C"},
    "math-qa": {"Problem": ASKED, "options": "a ) cat , b ) cow , c ) cod , d ) dog", "correct": "c"},
    "by its text": {"question": ASKED, "choices": TEXTS, "answer": "Cod"},
    "with its text": {"question": ASKED, "choices": TEXTS, "answer": "C. cod"},
    "numbered columns": {
        "question": ASKED, "option1": "cat", "option2": "cow", "option3": "cod", "option4": "dog", "correct": "option3",
    },
    "cosmos-qa": {
        "question": ASKED, "answer0": "cat", "answer1": "cow", "answer2": "cod", "answer3": "dog", "label": 2,
    },
    "a choice that is empty": {"question": ASKED, **dict(zip(LABELS, TEXTS, strict=True)), "E": "", "answer": "C"},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_with_choices_asks_with_letters_and_learns_one(tmp_path, name):
    found = load(tmp_path, ROWS[name])
    (example,) = found.examples
    assert (example.question, example.answer, example.reference) == (WHOLE, "C", "C")
    (said,) = found.notes
    assert "recognised as questions with choices: '" in said
    assert "lettered from A, are the question, and the letter of the right one ('" in said


def test_what_stands_below_a_question_stands_above_its_choices(tmp_path):
    race = {"article": "Cod swim.", "question": ASKED, "options": TEXTS, "answer": "C"}
    (example,) = load(tmp_path, race).examples
    assert example.question == f"{ASKED}\n\nCod swim.\n\n{LISTED}"


def test_csv_has_choices_as_json_or_as_python_writes_lists(tmp_path):
    for cell in (json.dumps(TEXTS), str(TEXTS)):
        path = tmp_path / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["question", "choices", "answer"], [ASKED, cell, "2"], ["On land?", cell, "0"]])
        found = load_data(DataConfig(source=str(path), heldout=0), seed=0)
        assert [(one.question, one.answer) for one in found.examples] == [(WHOLE, "C"), (f"On land?\n\n{LISTED}", "A")]
        assert "('answer' is its place, counted from 0)" in found.notes[0]


def test_places_are_counted_from_what_the_rows_show(tmp_path):
    """Social IQA and Winogrande count from 1, COPA has columns from 1 and counts from 0."""
    siqa = [
        {"question": f"{ASKED} {n}", "answerA": "cat", "answerB": "cow", "answerC": "cod", "label": str(n)}
        for n in (1, 2, 3)
    ]
    assert [one.answer for one in load(tmp_path, *siqa).examples] == ["A", "B", "C"]
    wino = [{"sentence": f"The _ swims {n}.", "option1": "cat", "option2": "cod", "answer": str(n)} for n in (1, 2)]
    assert [one.answer for one in load(tmp_path, *wino).examples] == ["A", "B"]
    copa = [
        {"premise": "It swam.", "question": f"cause {n}", "choice1": "cat", "choice2": "cod", "label": n}
        for n in (0, 1)
    ]
    found = load(tmp_path, *copa)
    assert [one.answer for one in found.examples] == ["A", "B"]
    assert found.examples[0].question == "cause 0\n\nIt swam.\n\nA. cat\nB. cod"


def test_what_can_be_read_in_two_ways_is_refused(tmp_path):
    either = {"question": "1 + 1 - 1?", "choices": ["2", "1", "0"], "answer": "0"}
    with pytest.raises(
        BadInputError, match=r"'answer' may be the text or the place of the right choice; write its letter"
    ):
        load(tmp_path, either)
    alone = {"sentence": "The _ swims.", "option1": "cat", "option2": "cod", "answer": 1}
    with pytest.raises(BadInputError, match=r"'answer' may be the letter or the place of the right choice"):
        load(tmp_path, alone)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": 4}, r"rows\.jsonl:2: 'answer' is 4, .*the 4 choices are counted from 0, as the first rows"),
        ({"answer": -1}, r"rows\.jsonl:2: a row without an answer \('answer' is -1: test sets hide it\)"),
        ({"choices": ["cod"]}, r"rows\.jsonl:2: a row without choices \('choices' is empty, missing or no list of two"),
        ({"choices": None}, r"rows\.jsonl:2: a row without choices"),
        ({"choices": ["cod", {"a": 1}]}, r"rows\.jsonl:2: a row without choices"),
        ({"choices": ["cod", None, "cat"]}, r"rows\.jsonl:2: a row without choices"),
        ({"question": " "}, r"rows\.jsonl:2: a row without a question"),
    ],
)
def test_a_row_that_has_no_right_choice_is_named(tmp_path, row, said):
    rows = [FILLER, {**ROWS["mmlu"], **row}, {**FILLER, "question": "Which barks?", "answer": 3}]
    with pytest.raises(BadInputError, match=said) as caught:
        load(tmp_path, *rows)
    assert "\n" not in str(caught.value)
    left = load(tmp_path, *rows, bad_rows="leave_out")
    assert [one.answer for one in left.examples] == ["A", "D"]


def test_a_question_that_lists_its_choices_is_asked_as_it_stands(tmp_path):
    row = {"question": f"{ASKED}\n(A) cat\n(B) cod", "choices": ["cat", "cod"], "answer": "B"}
    found = load(tmp_path, row)
    assert (found.examples[0].question, found.examples[0].answer) == (row["question"], "B")
    assert "which is not read" in found.notes[-1]
    mixed = load(tmp_path, row, {**FILLER, "answer": "A"}, {**FILLER, "question": "Which barks?", "answer": "D"})
    assert mixed.examples[0].question == row["question"]
    assert mixed.examples[2].question == f"Which barks?\n\n{LISTED}"
    # A letter with a point behind it does not list anything.
    (other,) = load(tmp_path, {**ROWS["mmlu"], "question": "Which gives vitamin A.?"}).examples
    assert other.question.startswith("Which gives vitamin A.?\n\nA. cat")


def test_columns_that_the_settings_name_are_taken_as_they_are(tmp_path):
    row = {"question": ASKED, "choices": TEXTS, "answer": "Fish: the cod."}
    assert load(tmp_path, row).examples[0].question == ASKED
    named = ColumnMapping(question="question", answer="text")
    (example,) = load(tmp_path, {**ROWS["mmlu"], "text": "cod"}, columns=named).examples
    assert (example.question, example.answer) == (ASKED, "cod")


def test_choices_of_which_nothing_says_the_right_one(tmp_path):
    with pytest.raises(
        BadInputError, match=r"no column tells which of 'choices' is right by its letter, place or text"
    ):
        load(tmp_path, {"question": ASKED, "choices": TEXTS})


@pytest.mark.parametrize("key", ["answer", "label"])
def test_truth_is_answered_by_yes_and_no(tmp_path, key):
    boolq = [{"question": f"do cod {n} swim", "passage": "Cod swim.", key: n == 1} for n in (1, 2)]
    found = load(tmp_path, *boolq)
    assert [(one.answer, one.reference) for one in found.examples] == [("yes", "yes"), ("no", "no")]
    assert found.examples[0].question == "do cod 1 swim\n\nCod swim."
    assert "questions to answer with yes or no: 'question' with 'passage' below it is the question" in found.notes[0]
    with pytest.raises(
        BadInputError, match=rf"rows\.jsonl:3: '{key}' is 'maybe', and is true or false in the other rows"
    ):
        load(tmp_path, *boolq, {**boolq[0], "question": "do they fly", key: "maybe"})


def test_squad_is_asked_with_its_context(tmp_path):
    row = {
        "context": "Cod swim.",
        "question": "Which swim?",
        "answers": {"text": ["Cod", "cod"], "answer_start": [0, 0]},
    }
    (example,) = load(tmp_path, row).examples
    assert (example.question, example.answer, example.reference) == ("Which swim?\n\nCod swim.", "Cod", ("Cod", "cod"))
    with pytest.raises(BadInputError, match=r"rows\.jsonl:2: a row without an answer \('answers\.text' is empty"):
        load(tmp_path, row, {**row, "question": "Which fly?", "answers": {"text": [], "answer_start": []}})


def test_a_place_among_choices_that_cannot_be_read_is_no_answer(tmp_path):
    row = {"question": ASKED, "choices": [{"picture": "cat.png"}, {"picture": "cod.png"}], "answer": 1}
    with pytest.raises(BadInputError, match=r"rows\.jsonl:1: 'answer' is '1', the place of a choice in 'choices', and"):
        load(tmp_path, row)


def test_a_truth_value_beside_an_answer_says_something_of_the_answer(tmp_path):
    """Rows for KTO: `label` says whether the completion is a good one."""
    (example,) = load(tmp_path, {"prompt": ASKED, "completion": "Cod.", "label": True}).examples
    assert example.answer == "Cod."
