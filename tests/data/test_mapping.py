"""What data sets are recognised by, in every format of file, and that no hint names a column of another part."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data, load_sample, source
from lorapar.data.reference_pattern import ANSWER_IS, last_boxed, reference_finder
from lorapar.errors import BadInputError
from tests.data.formats import FORMATS, SHARED, WEATHER, printed, write


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet", "printed"])
@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_recognised_whatever_file_they_are_in(tmp_path, name, ending):
    row, message, expected = FORMATS[name]
    if ending == "printed":
        row, ending = {key: printed(cell) for key, cell in row.items()}, ".csv"
    path = write(tmp_path, ending, [row])
    loaded = load_data(DataConfig(source=str(path), heldout=0), seed=0)
    (example,) = loaded.examples
    assert (example.question, example.answer, example.reference) == expected
    assert loaded.notes[0].startswith(f"{path} is recognised as {message}")
    assert load_sample(DataConfig(source=str(path)), seed=0).notes == loaded.notes
    if example.question == "And tomorrow?":
        assert example.system_message == "Be brief."
        assert [turn.content for turn in example.history] == ["Rain today?", "Yes."]
        assert example.asked.endswith("User: Rain today?\n\nAssistant: Yes.\n\nUser: And tomorrow?")
    elif example.question == "Rain today?":
        assert example.asked == "System: Be brief.\n\nUser: Rain today?"
    else:
        assert example.asked == example.question


def test_the_hint_for_short_answers_has_the_names_of_the_file(tmp_path):
    path = tmp_path / "rows.csv"
    text = "Question,Answer\n" + "".join(f"{number} and one?,{number + 1}\n" for number in range(8))
    path.write_text(text, encoding="utf-8")
    (note,) = load_data(DataConfig(source=str(path), heldout=0), seed=0).notes
    message = "its answers are short, and are the references, too, with data.columns.question=Question "
    assert f"{message}data.columns.answer=Answer data.columns.reference=Answer;" in note
    columns = ColumnMapping(question="Question", answer="Answer", reference="Answer")
    made = load_data(DataConfig(source=str(path), heldout=0, columns=columns), seed=0).examples
    assert sorted(one.reference for one in made) == list("12345678")


def test_code_is_an_answer_only_where_tests_are_beside_it(tmp_path):
    """A ticket has a text and a code, too, and its answer is in neither."""
    ticket = {"text": "It does not start.", "product": "P7", "reply": "Charge it first.", "code": "E17"}
    with pytest.raises(BadInputError, match=r"no columns that say what is asked and answered; it has: .*reply"):
        load_data(DataConfig(source=str(write(tmp_path, ".csv", [ticket])), heldout=0), seed=0)
    prompt = {"prompt": "It does not start.", "response": "Charge it first.", "code": "E17"}
    loaded = load_data(DataConfig(source=str(write(tmp_path, ".csv", [prompt])), heldout=0), seed=0)
    assert loaded.examples[0].answer == "Charge it first."


SHORT_ANSWERS = {
    "trivia-qa": (
        {"question": "1+1?", "answer": {"value": "2", "aliases": ["2", "two"]}},
        "answer.aliases",
        ("2", "two"),
    ),
    "value": ({"question": "1+1?", "answer": {"value": 2}}, "answer.value", "2"),
    "squad": (
        {"context": "C", "question": "1+1?", "answers": {"text": ["2"], "answer_start": [1]}},
        "answers.text",
        "2",
    ),
    "natural-questions": ({"question": "1+1?", "answer": ["2", "two"]}, "answer", ("2", "two")),
    "ground-truth": ({"prompt": "1+1?", "ground_truth": "2"}, "ground_truth", "2"),
}


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", SHORT_ANSWERS)
def test_short_answers_that_are_all_there_is_are_learned_and_are_the_references(tmp_path, name, ending):
    row, column, reference = SHORT_ANSWERS[name]
    path = write(tmp_path, ending, [row])
    loaded = load_data(DataConfig(source=str(path), heldout=0), seed=0)
    (example,) = loaded.examples
    below = "\n\nC" if "context" in row else ""
    assert (example.question, example.answer, example.reference) == (f"1+1?{below}", "2", reference)
    assert loaded.notes[0].endswith(f"is the question, and '{column}' both answer and reference")


def test_settings_name_fields_inside_of_columns_too(tmp_path):
    rows = [{"task": {"text": "1+1?"}, "out": [{"said": "2"}, {"said": "two"}], "a.b": "x", "a": {"b": "y"}}]
    path = write(tmp_path, ".jsonl", rows)
    columns = ColumnMapping(question="task.text", answer="a.b", reference="out.said")
    (example,) = load_data(DataConfig(source=str(path), heldout=0, columns=columns), seed=0).examples
    assert (example.question, example.answer, example.reference) == ("1+1?", "x", ("2", "two"))
    wrong = ColumnMapping(question="task.txt", answer="a.b")
    with pytest.raises(
        BadInputError, match=r"no column 'task\.txt' \(did you mean 'task\.text'\?\); it has: task\.text, o"
    ):
        load_data(DataConfig(source=str(path), columns=wrong), seed=0)
    whole = ColumnMapping(question="task", answer="a.b")
    with pytest.raises(
        BadInputError, match=r"'task' is not text but dict; name the field .* task\.text, in data\.columns"
    ):
        load_data(DataConfig(source=str(path), columns=whole), seed=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
            r"these are preferences, which are not trained; to learn what was chosen alone, set "
            r"data\.columns\.question=prompt and data\.columns\.answer=chosen",
        ),
        (
            {"chosen": WEATHER, "rejected": WEATHER},
            r"these are preferences.* alone, set data\.columns\.messages=chosen",
        ),
        (
            {"chosen": "Human: 1+1?\n\nAssistant: 2", "rejected": "…"},
            r"these are preferences.* alone, write it as messages",
        ),
        (
            {
                "input": {"messages": WEATHER[:2]},
                "preferred_output": WEATHER[2:3],
                "non_preferred_output": WEATHER[2:3],
            },
            r"these are preferences.* set data\.columns\.question=input\.messages and .*answer=preferred_output",
        ),
        (
            {"prompt": WEATHER[:2], "chosen": WEATHER[2:3], "rejected": WEATHER[2:3]},
            r"these are preferences.* set data\.columns\.question=prompt and data\.columns\.answer=chosen",
        ),
        (
            {"How many pens does Ada have in her old bag?": "She has five of them, and another two at home."},
            r"its first line is read as the names of columns and looks like a row: put a line with names above it",
        ),
        (
            {"conversation": [{"speaker": "a", "text": "1+1?"}]},
            r"the turns in 'conversation' have 'speaker', 'text', and known are 'role' with 'content'",
        ),
    ],
)
def test_rows_of_another_kind_are_reported_for_what_they_are(tmp_path, row, message):
    path = write(tmp_path, ".jsonl", [row])
    with pytest.raises(BadInputError, match=rf"^data\.columns: .* has no columns that say .*; {message}") as caught:
        load_data(DataConfig(source=str(path), heldout=0), seed=0)
    assert "\n" not in str(caught.value)


def test_columns_that_the_settings_name_win(tmp_path):
    row = {"messages": WEATHER, "prompt": "Short?", "completion": "Yes."}
    path = write(tmp_path, ".jsonl", [row])
    columns = ColumnMapping(question="prompt", answer="completion")
    loaded = load_data(DataConfig(source=str(path), heldout=0, columns=columns), seed=0)
    assert [(one.question, one.answer, one.history) for one in loaded.examples] == [("Short?", "Yes.", None)]
    assert loaded.notes == []
    other = write(tmp_path, ".json", [{"talk": SHARED, "style": "Be kind."}])
    named = ColumnMapping(messages="talk", system_message="style")
    (example,) = load_data(DataConfig(source=str(other), heldout=0, columns=named), seed=0).examples
    assert (example.question, example.system_message) == ("Capital of Peru?", "Be kind.")


def test_a_column_called_system_holds_either_a_name_or_a_message(tmp_path):
    for value, known, message in (("System 2", "system2", None), ("You are a chef.", None, "You are a chef.")):
        path = write(tmp_path, ".jsonl", [{"system": value, "instruction": "Soup?", "output": "Boil."}])
        (example,) = load_data(DataConfig(source=str(path), heldout=0), seed=0).examples
        assert (example.known_system, example.system_message) == (known, message)


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (None, {"prompt": "q", "chosen_text": "a"}, r"no columns that say what is asked and answered; it has: prompt"),
        (None, {"query": "q", "solution": "a"}, r"did you mean data\.columns\.question=query and .*solution\?\)"),
        (None, {"text": "q", "label": "a"}, r"texts with labels: .*context=text, data\.columns\.answer=label and"),
        (None, {"in": {"question": "q"}, "out": {"answer": "a"}}, r"\.question=in\.question and .*=out\.answer\?"),
        (None, {"Text ": "q"}, r"split 'Text ' into two columns, or into messages"),
        (None, {"Question": "q", "question ": "r", "answer": "a"}, r"no columns that say what is asked"),
        (None, {"text": "q"}, r"it has: text; name the right ones in data\.columns \(known are question"),
        ({"question": "question"}, {"completion": "a", "prompt": "q"}, r"'question' \(did you mean 'prompt'\?\)"),
        ({"question": "question"}, {"completion": "a", "x": "q"}, r"no column 'question'; it has: completion, x"),
        ({"question": "qestions"}, {"questions": "a", "x": "q"}, r"'qestions' \(did you mean 'questions'\?\)"),
        ({"question": "x"}, {"x": "q", "Response": "a"}, r"no column 'answer' \(did you mean 'Response'\?\)"),
    ],
)  # fmt: skip
def test_hints_name_the_right_column_or_none(tmp_path, columns, row, message):
    path = write(tmp_path, ".jsonl", [row])
    mapping = ColumnMapping(**columns) if columns else None
    with pytest.raises(BadInputError, match=message) as caught:
        load_data(DataConfig(source=str(path), columns=mapping), seed=0)
    assert "did you mean 'completion'" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        *((r"So \boxed 5.", "5"), (r"\boxed12", "12"), (r"$\boxed x$", "x"), (r"\(\boxed 2.5\)", "2.5")),
        (r"use \boxed as you like", ""),
        # what goes on behind it would be cut off
        *((rf"So \boxed {value}.", "") for value in ("1/2", "1,234", "12{,}000", r"3\sqrt2", "5x", "2^5", "3:30")),
        *((rf"\boxed {words}", "") for words in ("a number", "I think", "3 apples")),
        (r"\boxed{7}. We used \boxed 3", "7"),
    ],
)
def test_a_box_without_braces_holds_a_number_or_a_letter(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so $x=\boxed{2}$ or $x = \boxed{3}$.", "2, 3"),
        (r"$\boxed{2}$, $\boxed{3}$, and $\boxed{\frac{1}{2}}$", r"2, 3, \frac{1}{2}"),
        (r"\[\boxed{2}\quad\text{or}\quad\boxed{3}\]", "2, 3"),
        (r"$x=\boxed{2}$ or $\boxed{-\frac12}$", r"2, -\frac12"),
        (r"$x_1=\boxed{1+\sqrt{2}}$ and $x_2=\boxed{1-\sqrt{3}}$", r"1+\sqrt{2}, 1-\sqrt{3}"),
        (r"$\boxed{(1,2)}$ and $\boxed{(-3,0)}$", "(1,2), (-3,0)"),
        (r"\boxed{A}, \boxed{C}, and \boxed{D}", "A, C, D"),
        (r"\boxed{0.5} and \boxed{-1.25}", "0.5, -1.25"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"\boxed{5}, \boxed{}", "5"),
        (r"First \boxed{2}. Then \boxed{3}.", "3"),
        (r"\boxed{2}, so adding one gives \boxed{3}", "3"),
        (r"\boxed{2}\boxed{3}", "3"),
        (r"} \boxed{\boxed{5}}", "5"),
    ],
)
def test_boxes_that_a_comma_or_a_word_joins_are_one_list(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (r"$\boxed{\frac{1}{2}}$, or $\boxed{0.5}$", "0.5"),
        (r"$\boxed{0.25}$ or $\boxed{25\%}$", r"25\%"),
        (r"\boxed{3} or \boxed{003}", "003"),
        (r"\boxed{0.5}, or \boxed{.50}", ".50"),
        (r"$\boxed{\frac{2}{4}}$ or $\boxed{\frac12}$", r"\frac12"),
        (r"$\boxed{2\frac{1}{2}}$ or $\boxed{\frac{5}{2}}$", r"\frac{5}{2}"),
        (r"$\boxed{0.8665 \text{ radians}}$ or $\boxed{49.64^\circ}$", r"49.64^\circ"),
        (r"$\boxed{2^6}$ or $\boxed{4^3}$", "4^3"),
        (r"$\boxed{1010_2}$ or $\boxed{10_{10}}$", "10_{10}"),
        (r"$\boxed{2\sqrt{3}}$, or $\boxed{\sqrt{12}}$", r"\sqrt{12}"),
        (r"$r=\boxed{5}$, $A=\boxed{25\pi}$", r"25\pi"),
        (r"$r=\boxed{5}$, $A=\boxed{25}$", "25"),
        (r"$\boxed{5}$ and $A=\boxed{25}$", "25"),
        (r"\boxed{\text{Alice}} and \boxed{\text{Bob}}", r"\text{Bob}"),
        (rf"\boxed{{1{'0' * 5000}}} or \boxed{{2}}", "2"),
    ],
)
def test_boxes_with_two_forms_of_one_value_or_with_results_on_the_way_are_no_list(text, last):
    assert last_boxed(text) == last


def test_the_last_answer_of_a_text_is_the_reference():
    find = reference_finder(ANSWER_IS)
    assert find("The answer is not known yet. Then the answer is 7.") == "7"
    assert find("First.\nThe final answer is: 3.5.\n") == "3.5"
    assert find("The answer is 7.\nOr so.") == ""


def test_a_row_without_a_solution_is_answered_by_its_short_answer(tmp_path):
    rows = [{"problem": "1+1?", "answer": "2", "solution": "So 2."}, {"problem": "2+4?", "answer": "6", "solution": ""}]
    path = write(tmp_path, ".jsonl", rows)
    loaded = load_data(DataConfig(source=str(path), heldout=0), seed=0)
    assert {(one.answer, one.reference) for one in loaded.examples} == {("So 2.", "2"), ("6", "6")}
    assert "1 of 2 rows have nothing in 'solution': what is in 'answer' is their answer" in loaded.notes
    assert not [note for note in loaded.notes if "bare short answers are learned" in note]
    write(tmp_path, ".jsonl", [*rows, {"problem": "2+5?", "answer": "7", "solution": ""}])
    notes = load_data(DataConfig(source=str(path), heldout=0), seed=0).notes
    assert [
        note for note in notes if note.startswith("most rows have no 'solution', so bare short answers are learned")
    ]


@given(st.recursive(st.text("ab1 ", max_size=4), lambda inner: st.lists(inner, max_size=3).map(
    lambda parts: "{" + "".join(parts) + "}"), max_leaves=8), st.text("xy {}", max_size=10))  # fmt: skip
def test_the_last_box_is_found_with_the_braces_in_it(inside, before):
    assert last_boxed(f"\\boxed{{0}} {before.replace('{', '').replace('}', '')} \\boxed{{{inside}}}.") == inside.strip()
    assert last_boxed(f"\\boxed{{7}} and then \\boxed{{{inside}") == (
        "7" if inside.count("{") == inside.count("}") else ""
    )


DOCS = Path(__file__).parents[2] / "docs" / "data.md"
SHOWN = re.findall(r"^\|.*\| `(\{\".*\})` \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_the_rows_that_the_docs_show_are_read_as_written(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    loaded = load_data(DataConfig(source=str(path), heldout=0), seed=0)
    assert loaded.examples[0].answer
    assert "is recognised as" in loaded.notes[0]


def test_the_docs_show_a_row_of_every_format():
    assert len(SHOWN) == 17


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_data_sets_of_the_hub_are_recognised_alike(monkeypatch, name, streamed):
    """All but the download is real: the library's types make of rows what they make of a hub's."""
    import datasets

    row, message, expected = FORMATS[name]
    table = datasets.Dataset.from_list([row, row | {"images": None}])
    monkeypatch.setattr(source, "_hub_commit", lambda config: "0" * 40)
    monkeypatch.setattr(
        source, "_load_dataset", lambda *args, streamed: table.to_iterable_dataset() if streamed else table
    )
    config = DataConfig(source="hub:some/rows", heldout=0, bad_rows="leave_out")
    loaded = load_sample(config, seed=0) if streamed else load_data(config, seed=0)
    assert loaded.notes[0].startswith(f"hub:some/rows is recognised as {message}")
    (example,) = loaded.examples
    assert (example.question, example.answer, example.reference) == expected


@pytest.mark.parametrize(("last", "letters"), [(0, {"A", "B"}), (2, {"A", "B"}), (1, None)])
def test_what_the_first_rows_of_the_hub_leave_open_is_said_and_all_rows_decide(monkeypatch, last, letters):
    import datasets

    rows = [{"question": f"{n}?", "choices": ["an a", "a b"], "answer": last if n == 50 else 1} for n in range(51)]
    table = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(source, "_hub_commit", lambda config: "0" * 40)
    monkeypatch.setattr(
        source, "_load_dataset", lambda *args, streamed: table.to_iterable_dataset() if streamed else table
    )
    config = DataConfig(source="hub:some/rows", heldout=0)
    (note,) = load_sample(config, seed=0).notes
    assert "do not show whether it is counted from 0 or from 1" in note
    assert note.endswith("these are its first rows, and prepare looks at all of them")
    if letters is None:
        with pytest.raises(BadInputError, match="the rows do not show whether it is counted from 0 or from 1"):
            load_data(config, seed=0)
    else:
        assert {one.answer for one in load_data(config, seed=0).examples} == letters


def test_a_sample_that_cannot_be_streamed_says_nothing(monkeypatch):
    def broken(*args, streamed):
        raise NotImplementedError("this archive cannot be streamed")

    monkeypatch.setattr(source, "_hub_commit", lambda config: "0" * 40)
    monkeypatch.setattr(source, "_load_dataset", broken)
    assert load_sample(DataConfig(source="hub:some/rows"), seed=0).notes == []


@pytest.mark.parametrize("answer", ["completion", "response"])
def test_a_completion_that_shall_not_be_written_is_a_bad_row(tmp_path, answer):
    path = write(tmp_path, ".jsonl", [{"prompt": f"{n}?", answer: "x", "label": n != 1} for n in range(3)])
    with pytest.raises(BadInputError, match=rf"rows\.jsonl:2: 'label' is false, so '{answer}' is what must not be"):
        load_data(DataConfig(source=str(path), heldout=0), seed=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "2+3?", "Answer": "5"}, "questions and answers; capitals and spaces in the names 'Question'"),
        ({" question ": "2+3?", "ANSWER": "5"}, "capitals and spaces in the names ' question ', 'ANSWER' do not count"),
        ({"Prompt": "2+3?", "Completion": "5"}, "prompts and completions (TRL)"),
        ({"Instruction": "2+3?", "Input": "", "Output": "5"}, "instructions (Alpaca)"),
        ({"Problem": "2+3?", "Solution": "5", "ID": "one"}, "problems with solutions"),
        ({"query": "2+3?", "response": "5"}, "queries with responses: 'query' is the question, 'response' the answer"),
        ({"question": "2+3?", "response": "5"}, "questions with responses"),
        ({"prompt": "2+3?", "response": "5"}, "prompts with responses"),
        ({"input": "2+3?", "output": "5"}, "inputs with outputs"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_headers_are_recognised_whatever_their_capitals_and_spaces(tmp_path, row, message, delimiter):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([row.keys(), row.values()])
    loaded = load_data(DataConfig(source=str(path), heldout=0), seed=0)
    assert [(one.question, one.answer) for one in loaded.examples] == [("2+3?", "5")]
    assert any(message in note for note in loaded.notes), loaded.notes
    assert loaded.examples[0].id == row.get("ID", loaded.examples[0].id)


def test_a_picture_is_refused_under_any_capitals(tmp_path):
    path = write(tmp_path, ".jsonl", [{"Question": "q", "Answer": "a", "Image": "cat.png"}])
    with pytest.raises(BadInputError, match="'image' holds an image"):
        load_data(DataConfig(source=str(path), heldout=0), seed=0)
