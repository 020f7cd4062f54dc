"""Rows with choices and with truth values, each data set as it comes: what is asked, and the letter that is learned."""

import csv
import json

import numpy as np
import pytest

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data, load_sample
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
    "reclor": {"question": ASKED, "answers": TEXTS, "label": 2},
    "dream": {"question": ASKED, "choice": TEXTS, "answer": "cod"},
    "a choice that is empty": {"question": ASKED, **dict(zip(LABELS, TEXTS, strict=True)), "E": "", "answer": "C"},
}  # fmt: skip


PLACES = {"mmlu": "answer", "mmlu in json text": "answer", "hellaswag": "label", "medmcqa": "cop", "reclor": "label"}
"""Columns with places; another row has to show that these are counted from 0."""


@pytest.mark.parametrize("name", ROWS)
def test_a_row_with_choices_asks_with_letters_and_learns_one(tmp_path, name):
    other = {key: "On land?" if cell == ASKED else cell for key, cell in ROWS[name].items()}
    found = load(tmp_path, ROWS[name], *([other | {PLACES[name]: 0}] if name in PLACES else []))
    example = found.examples[0]
    assert (example.question, example.answer, example.reference) == (WHOLE, "C", "C")
    (said,) = found.notes
    assert "recognised as questions with choices: '" in said
    assert "lettered from A, are the question, and the letter of the right one ('" in said


def test_what_stands_below_a_question_stands_above_its_choices(tmp_path):
    race = {"article": "Cod swim.", "question": ASKED, "options": TEXTS, "answer": "C"}
    (example,) = load(tmp_path, race).examples
    assert example.question == f"{ASKED}\n\nCod swim.\n\n{LISTED}"


def test_csv_has_choices_as_json_or_as_python_and_numpy_print_lists(tmp_path):
    array = np.array(TEXTS, dtype=object)
    for cell in (json.dumps(TEXTS), str(TEXTS), str(array), repr(array), str({"text": array, "label": LABELS})):
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


def counted(*places, first=0):
    """Rows with places of choices, each another question."""
    return [{"question": f"{ASKED} {n}", "choices": TEXTS, "answer": place} for n, place in enumerate(places, first)]


def test_plan_counts_from_what_all_rows_show_too(tmp_path):
    """Its first rows show one thing here, and all of them another."""
    found = load(tmp_path, *counted(0, *[1] * 40, *[4] * 10), bad_rows="leave_out")
    sample = load_sample(DataConfig(source=str(tmp_path / "rows.jsonl"), bad_rows="leave_out"), seed=0)
    assert "counted from 1)" in found.notes[0]
    assert sample.notes[0] == found.notes[0]


@pytest.mark.parametrize(("shown", "letters"), [(0, {"B", "A"}), (4, {"A", "D"})])
def test_all_rows_say_what_places_are_counted_from(tmp_path, shown, letters):
    """Also where the rows that say it stand behind those that `plan` reads."""
    found = load(tmp_path, *counted(*[1] * 40, shown))
    assert {one.answer for one in found.examples} == letters
    assert f"counted from {int(shown == 4)})" in found.notes[0]
    sample = load_sample(DataConfig(source=str(tmp_path / "rows.jsonl")), seed=0)
    assert sample.notes[0] == found.notes[0]
    assert {one.answer for one in sample.examples} == letters - {"A" if shown == 0 else "D"}
    limited = DataConfig(source=str(tmp_path / "rows.jsonl"), limit=40)
    with pytest.raises(BadInputError, match="the rows do not show whether it is counted from 0 or from 1"):
        load_sample(limited, seed=0)


@pytest.mark.parametrize("places", [(1, 2, 3), (2,), (0, 4, 3), (1, 2, 1, 4, 0, 0), (*[4] * 9, 0)])
def test_places_are_refused_where_no_row_or_not_nearly_all_say_it(tmp_path, places):
    with pytest.raises(
        BadInputError, match=r"'answer' is the place of the right choice, and the rows do not show whe"
    ) as caught:
        load(tmp_path, *counted(*places))
    assert str(caught.value).endswith("write its letter (A, B, …) there instead")
    assert "\n" not in str(caught.value)


def test_one_row_that_is_wrong_does_not_change_what_places_are_counted_from(tmp_path):
    found = load(tmp_path, *counted(*[4] * 10, 0, 1), bad_rows="leave_out")
    assert [one.answer for one in found.examples] == [*"D" * 10, "A"]
    assert "the 4 choices are counted from 1, as most rows show" in found.left_out[0]


@pytest.mark.parametrize("answer", [2.0, "2.0", " 2 ", "2"])
def test_a_number_that_became_a_float_is_the_number(tmp_path, answer):
    assert load(tmp_path, {**ROWS["mmlu"], "answer": answer}, FILLER).examples[0].answer == "C"
    arc = {**ROWS["arc by numbers"], "answerKey": answer}
    assert load(tmp_path, arc).examples[0].answer == "B"
    sums = {"question": "19+1?", "choices": [1.0, 20.0, 2.5], "answer": f"{answer}".replace("2", "20")}
    (example,) = load(tmp_path, sums).examples
    assert (example.question, example.answer) == ("19+1?\n\nA. 1\nB. 20\nC. 2.5", "B")


@pytest.mark.parametrize("blank", [None, "", " ", "nan", "<NA>", float("nan"), "\u200b"])
def test_blank_cells_are_no_choices_and_no_answers(tmp_path, blank):
    four = {"question": ASKED, **dict(zip(LABELS, TEXTS, strict=True)), "E": blank, "answer": "C"}
    assert load(tmp_path, four).examples[0].question == WHOLE
    listed = {"question": ASKED, "choices": [*TEXTS, blank], "answer": "C"}
    assert load(tmp_path, listed).examples[0].question == WHOLE
    with pytest.raises(BadInputError, match=r"rows\.jsonl:2: a row without choices"):
        load(tmp_path, listed, {**listed, "choices": ["cat", blank, "cod"]}, {**listed, "question": "On land?"})
    with pytest.raises(BadInputError, match=r"rows\.jsonl:2: a row without an answer \('answer' is "):
        load(tmp_path, listed, {**listed, "question": "On land?", "answer": blank})


def test_minus_one_is_an_answer_where_it_is_a_choice(tmp_path):
    row = {"question": "1-2?", "choices": ["1", "-1"], "answer": "-1"}
    assert load(tmp_path, row).examples[0].answer == "B"


def test_what_can_be_read_in_two_ways_is_refused(tmp_path):
    either = {"question": "1 + 1 - 1?", "choices": ["2", "1", "0"], "answer": "0"}
    with pytest.raises(
        BadInputError, match=r"'answer' may be the text or the place of the right choice; write its letter"
    ):
        load(tmp_path, either)
    alone = {"sentence": "The _ swims.", "option1": "cat", "option2": "cod", "answer": 1}
    with pytest.raises(BadInputError, match=r"'answer' may be the letter or the place of the right choice"):
        load(tmp_path, alone)
    numbers = [{"question": f"How many in {n}?", "choices": [3, 4, 5, 6], "answer": 4} for n in range(20)]
    for rows in (numbers, [*numbers, {**numbers[0], "question": "And here?", "answer": 0}]):
        with pytest.raises(BadInputError, match=r"'answer' may be the (text or the place|place or the text) of the ri"):
            load(tmp_path, *rows)
    in_order = [{"question": f"{n}?", "choices": [0, 1, 2], "answer": n % 3} for n in range(3)]
    assert [one.answer for one in load(tmp_path, *in_order).examples] == ["A", "B", "C"]


def test_a_text_beside_a_letter_is_the_one_of_that_letter(tmp_path):
    fruit = {"question": "Which?", "choices": ["apple", "banana"]}
    assert load(tmp_path, {**fruit, "answer": "a banana"}).examples[0].answer == "a banana"
    assert load(tmp_path, {**fruit, "answer": "b banana"}).examples[0].answer == "B"
    more = [{**fruit, "question": f"{n}?", "answer": "A. apple"} for n in range(3)]
    with pytest.raises(
        BadInputError, match=r"rows\.jsonl:1: 'answer' is 'B\) apple', .* a text beside a letter has to"
    ):
        load(tmp_path, {**fruit, "answer": "B) apple"}, *more)


def test_the_text_as_it_stands_is_looked_for_first(tmp_path):
    row = {"question": "Which is an element?", "choices": ["CO", "Co", "co", "C2"], "answer": "Co"}
    assert load(tmp_path, row).examples[0].answer == "B"


@pytest.mark.parametrize("wrap", [lambda place: [place], lambda place: str([place])])
def test_a_place_in_a_list_of_one_is_the_place(tmp_path, wrap):
    """As AGIEval has them."""
    rows = [{"query": f"{n}?", "choices": TEXTS, "gold": wrap(n % 4)} for n in range(5)]
    assert [one.answer for one in load(tmp_path, *rows).examples] == ["A", "B", "C", "D", "A"]


@pytest.mark.parametrize("name", ["correct_answer", "correct_answer_id", "correct_answer_index"])
@pytest.mark.parametrize("by", ["text", "place"])
def test_answers_beside_what_is_correct_are_choices(tmp_path, name, by):
    """As QuAIL has them."""
    rows = [{"context": "Cod swim.", "question": f"{n}?", "answers": TEXTS, name: n % 4} for n in range(4)]
    rows = [{**row, name: TEXTS[row[name]]} if by == "text" else row for row in rows]
    found = load(tmp_path, *rows).examples
    assert [(one.answer, one.reference) for one in found] == [(letter, letter) for letter in "ABCD"]
    assert found[3].question == f"3?\n\nCod swim.\n\n{LISTED}"
    for answers in (TEXTS, "cat, cow"):
        with pytest.raises(
            BadInputError, match=rf"'{name}' beside 'answers' says .*set data\.columns\.question=question"
        ):
            load(tmp_path, {"question": ASKED, "answers": answers, name: "a carp"})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": 5}, r"rows\.jsonl:2: 'answer' is 5, .*the 4 choices are counted from 0, as most rows"),
        ({"answer": -1}, r"rows\.jsonl:2: a row without an answer \('answer' is -1: test sets hide it\)"),
        (
            {"choices": ["cod"]},
            r"rows\.jsonl:2: a row without choices \('choices' is empty, missing or no list of two or more texts",
        ),
        ({"choices": None}, r"rows\.jsonl:2: a row without choices"),
        ({"choices": ["cod", {"a": 1}]}, r"rows\.jsonl:2: a row without choices"),
        ({"choices": ["cod", None, "cat"]}, r"rows\.jsonl:2: a row without choices"),
        ({"question": " "}, r"rows\.jsonl:2: a row without a question"),
    ],
)
def test_a_row_that_has_no_right_choice_is_named(tmp_path, row, said):
    more = [{**FILLER, "question": "Which barks?", "answer": 3}, {**FILLER, "question": "Which purrs?"}]
    rows = [FILLER, {**ROWS["mmlu"], **row}, *more]
    with pytest.raises(BadInputError, match=said) as caught:
        load(tmp_path, *rows)
    assert "\n" not in str(caught.value)
    left = load(tmp_path, *rows, bad_rows="leave_out")
    assert [one.answer for one in left.examples] == ["A", "D", "A"]


LISTS_NONE = [
    ("There are 1 apple and 2 pears. Which are more?", ["apple", "pears"]),
    ("Line A: 12 cm, line B: 20 cm. How much longer is B in feet?", ["1", "2"]),
    ("A: 1.5 m, B: 2.5 m. How many?", ["1", "2"]),
    ("Which of these is a prime: 1, 2, 3?", ["2", "3"]),
    ("B. cod, A. cat: which?", ["cat", "cod"]),
]
"""Questions with the texts of their choices in them that do not list these."""


def test_a_question_that_lists_its_choices_is_asked_as_it_stands(tmp_path):
    row = {"question": f"{ASKED}\n(A) cat\n(B) cod", "choices": ["cat", "cod"], "answer": "B"}
    found = load(tmp_path, row)
    assert (found.examples[0].question, found.examples[0].answer) == (row["question"], "B")
    assert "'question' is the question, which lists the choices in 'choices' itself" in found.notes[0]
    assert found.examples[0].reference == "B"
    numbers = load(tmp_path, {**row, "question": f"{ASKED}\n1. cat 2. cod"}).examples[0]
    assert (numbers.question, numbers.answer) == (f"{ASKED}\n1. cat 2. cod", "2")
    mixed = load(tmp_path, row, {**FILLER, "answer": "A"}, {**FILLER, "question": "Which barks?", "answer": "D"})
    assert mixed.examples[0].question == row["question"]
    assert mixed.examples[2].question == f"Which barks?\n\n{LISTED}"
    for question, choices in LISTS_NONE:
        asked = load(tmp_path, {"question": question, "choices": choices, "answer": "A"}).examples[0].question
        assert asked == f"{question}\n\nA. {choices[0]}\nB. {choices[1]}"
    # A letter with a point behind it does not list anything, and neither do the texts alone.
    for question in ("Which gives vitamin A.?", "1. A cat, a cow, a cod or a dog?"):
        other = load(tmp_path, {**ROWS["mmlu by letter"], "question": question}).examples[0]
        assert other.question == f"{question}\n\n{LISTED}"


@pytest.mark.parametrize("column", ["context", "support", "dialogue"])
@pytest.mark.parametrize("extra", [{}, {"choices": ["cat", "cod"]}])
def test_a_question_that_lists_its_choices_keeps_its_context(tmp_path, column, extra):
    row = {"question": f"{ASKED}\n(A) cat\n(B) cod", column: "Cod swim.", "answer": "B", **extra}
    assert load(tmp_path, row).examples[0].question == f"{row['question']}\n\nCod swim."
    if not extra:
        return
    mixed = load(tmp_path, row, *({**FILLER, "answer": "A", "question": f"{n}?", column: None} for n in range(3)))
    assert mixed.examples[0].question == f"{row['question']}\n\nCod swim."
    told = {**row, "question": f"Cod swim. {row['question']}"}
    assert load(tmp_path, told).examples[0].question == told["question"]


def test_several_right_answers_are_no_choices(tmp_path):
    row = {"question": ASKED, "answers": ["a", "cod"], "target": "a"}
    (example,) = load(tmp_path, row).examples
    assert (example.question, example.answer, example.reference) == (ASKED, "a", ("a", "cod"))


def test_columns_that_the_settings_name_are_taken_as_they_are(tmp_path):
    row = {"question": ASKED, "choices": TEXTS, "answer": "Fish: the cod."}
    assert load(tmp_path, row).examples[0].question == ASKED
    named = ColumnMapping(question="question", answer="text")
    (example,) = load(tmp_path, {**ROWS["mmlu"], "text": "cod"}, columns=named).examples
    assert (example.question, example.answer) == (ASKED, "cod")


def test_choices_of_which_nothing_says_the_right_one(tmp_path):
    for choices in ({"choices": TEXTS}, dict(zip(LABELS, TEXTS, strict=True))):
        where = "', '".join(choices)
        with pytest.raises(BadInputError, match=f"no column tells which of '{where}' is right by its letter, place or"):
            load(tmp_path, {"question": ASKED, **choices})


RIGHT_AND_WRONG = {
    "sciq": {
        "question": ASKED, "distractor3": "cat", "distractor1": "cow", "distractor2": "dog", "correct_answer": "cod",
    },
    "gpqa": {
        "Question": ASKED, "Correct Answer": "cod", "Incorrect Answer 1": "cat", "Incorrect Answer 2": "cow",
        "Incorrect Answer 3": "dog",
    },
    "opentdb": {"question": ASKED, "correct_answer": "cod", "incorrect_answers": ["cow", "dog", "cat", "cod", None]},
    "truthful-qa": {
        "question": ASKED, "best_answer": "cod", "correct_answers": ["cod", "a cod"], "incorrect_answers": TEXTS,
    },
}  # fmt: skip


@pytest.mark.parametrize("written", [str, json.dumps, lambda texts: str(np.array(texts, dtype=object))])
def test_wrong_answers_that_csv_lists_in_a_text_are_several(tmp_path, written):
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [["question", "correct_answer", "incorrect_answers"], [ASKED, "cod", written(["cow", "dog", "cat"])]]
        csv.writer(file).writerows(rows)
    (example,) = load_data(DataConfig(source=str(path), heldout=0), seed=0).examples
    assert example.question == f"{ASKED}\n\nA. cow\nB. cod\nC. cat\nD. dog"


@pytest.mark.parametrize("name", RIGHT_AND_WRONG)
def test_a_right_answer_and_wrong_ones_are_asked_as_choices_in_an_order_of_their_own(tmp_path, name):
    (example,) = load(tmp_path, RIGHT_AND_WRONG[name]).examples
    assert (example.question, example.answer) == (f"{ASKED}\n\nA. cow\nB. cod\nC. cat\nD. dog", "B")
    assert example.reference == "B"


def test_the_right_answer_among_wrong_ones_has_no_letter_of_its_own(tmp_path):
    rows = [{**RIGHT_AND_WRONG["sciq"], "question": f"{ASKED} {n}"} for n in range(40)]
    found = load(tmp_path, *rows).examples
    assert {one.answer for one in found} == {"A", "B", "C", "D"}
    assert all(f"\n{one.answer}. cod" in one.question for one in found)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"correct_answer": "nan"}, r"rows\.jsonl:2: a row without an answer \('correct_answer' is empty or missing\)"),
        ({"question": ""}, r"rows\.jsonl:2: a row without a question"),
        ({"incorrect_answers": ["cod"]}, r"rows\.jsonl:2: a row with 0 wrong answers \('incorrect_answers'\); 1 to 25"),
    ],
)
def test_a_row_without_a_right_or_a_wrong_answer_is_named(tmp_path, row, said):
    with pytest.raises(BadInputError, match=said):
        load(tmp_path, RIGHT_AND_WRONG["opentdb"], {**RIGHT_AND_WRONG["opentdb"], **row})


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
    pictures = [{"picture": "cat.png"}, {"picture": "cod.png"}]
    for choices in ({"choices": pictures}, dict(zip(("option1", "option2"), pictures, strict=True))):
        where = "', '".join(choices)
        said = rf"rows\.jsonl:1: 'answer' is '1', the place of a choice in '{where}', and"
        with pytest.raises(BadInputError, match=said):
            load(tmp_path, {"question": ASKED, **choices, "answer": 1})
