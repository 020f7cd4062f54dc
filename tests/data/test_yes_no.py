"""Truth values: what they answer, in whose words, and where they judge an answer that stands in another column."""

import csv
import json

import pytest

from lorapar.config import DataConfig
from lorapar.data import load_data
from lorapar.errors import BadInputError

ASKED = "Which lives in water?"


def load(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_data(DataConfig(source=str(path), heldout=0), seed=0)


def load_csv(tmp_path, *rows):
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0].keys(), *(row.values() for row in rows)])
    return load_data(DataConfig(source=str(path), heldout=0), seed=0)


@pytest.mark.parametrize("key", ["answer", "label"])
@pytest.mark.parametrize(
    ("words", "learned"),
    [
        ((True, False), ("yes", "no")),
        ((True, "False"), ("yes", "no")),
        (("True", "false"), ("True", "false")),
        (("YES", "no"), ("YES", "no")),
    ],
)
def test_truth_is_answered_by_yes_and_no_and_texts_by_themselves(tmp_path, key, words, learned):
    boolq = [{"question": f"do {n} swim", "passage": "Cod swim.", key: word} for n, word in enumerate(words)]
    found = load(tmp_path, *boolq)
    assert [(one.answer, one.reference) for one in found.examples] == [(word, word) for word in learned]
    assert found.examples[0].question == "do 0 swim\n\nCod swim."
    assert "questions to answer with yes or no: 'question' with 'passage' below it is the question" in found.notes[0]
    assert ("yes for true" in found.notes[0]) is (learned[0] == "yes")
    with pytest.raises(
        BadInputError, match=rf"rows\.jsonl:\d+: '{key}' is 'maybe', and is true or false, or yes or no, in the"
    ):
        load(tmp_path, *({**boolq[0], "question": f"do {n} fly"} for n in range(40)), {**boolq[0], key: "maybe"})


def test_truth_values_of_csv_are_read_as_such_unless_the_question_names_the_words(tmp_path):
    rows = [{"question": f"do {n} swim", "answer": n == 1} for n in (1, 2)]
    assert [one.answer for one in load_csv(tmp_path, *rows).examples] == ["yes", "no"]
    told = [{**row, "question": f"Is it True or False: {row['question']}"} for row in rows]
    assert [one.answer for one in load_csv(tmp_path, *told).examples] == ["True", "False"]
    words = [{**row, "answer": "Yes"} for row in rows]
    assert [one.answer for one in load_csv(tmp_path, *words).examples] == ["Yes", "Yes"]


def test_answers_of_which_some_are_neither_yes_nor_no_are_taken_as_they_stand(tmp_path):
    rows = [{"question": f"{word}?", "answer": word} for word in ("Yes", "No", "Yes, often.")]
    assert [one.answer for one in load(tmp_path, *rows).examples] == ["Yes", "No", "Yes, often."]


@pytest.mark.parametrize(("question", "whole"), [("question", "solution"), ("prompt", "completion")])
def test_yes_or_no_beside_a_whole_answer_is_the_reference(tmp_path, question, whole):
    (example,) = load(tmp_path, {question: ASKED, whole: "Since it barks, no.", "answer": "no"}).examples
    assert (example.answer, example.reference) == ("Since it barks, no.", "no")
    with pytest.raises(BadInputError, match=r"'answer' is not text but bool; write the word that is meant, as yes or"):
        load(tmp_path, {question: ASKED, whole: "Since it barks, no.", "answer": False})


def test_a_truth_value_beside_an_answer_says_something_of_the_answer(tmp_path):
    """Rows for KTO: `label` says whether the completion is a good one."""
    (example,) = load(tmp_path, {"prompt": ASKED, "completion": "Cod.", "label": True}).examples
    assert example.answer == "Cod."


@pytest.mark.parametrize("whole", ["generation", "text", "reply", "model_answer"])
@pytest.mark.parametrize("truth", [True, "True"])
def test_a_label_beside_an_answer_of_no_usual_name_is_no_answer(tmp_path, whole, truth):
    said = r"'label' is true or false, of an answer or as one: .* set data\.columns\.question=prompt and"
    with pytest.raises(BadInputError, match=said):
        load(tmp_path, {"prompt": ASKED, whole: "Cod.", "label": truth})


@pytest.mark.parametrize("read", [load, load_csv])
@pytest.mark.parametrize("label", ["False", "false", False])
def test_a_completion_that_shall_not_be_written_is_refused_in_any_file(tmp_path, read, label):
    rows = [{"prompt": f"{n}?", "completion": "x", "label": True if n else label} for n in range(3)]
    with pytest.raises(BadInputError, match=r"'label' is false, so 'completion' is what must not be written"):
        read(tmp_path, *rows)
