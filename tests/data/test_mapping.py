"""What data sets are recognised by, in every format of file, and that no hint names a column of another part."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data, load_sample, source
from lorapar.data.reference_pattern import last_boxed
from lorapar.errors import BadInputError

WEATHER = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain today?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And tomorrow?"},
    {"role": "assistant", "content": "Sun."},
]
SHARED = [{"from": "human", "value": "Capital of Peru?"}, {"from": "gpt", "value": "Lima."}]
FORMATS = {
    "messages": (
        {"messages": WEATHER, "tools": None},
        "conversations (chat messages): the last turn of the assistant in 'messages' is the answer, the turns before",
        ("And tomorrow?", "Sun.", None),
    ),
    "sharegpt": (
        {"id": "p1", "conversations": SHARED},
        "conversations (ShareGPT): the last turn of the assistant in 'conversations' is the answer",
        ("Capital of Peru?", "Lima.", None),
    ),
    "prompt-text": (
        {"prompt": "The sky is", "completion": " blue."},
        "prompts and completions (TRL): 'prompt' is the question, 'completion' the answer",
        ("The sky is", " blue.", None),
    ),
    "prompt-messages": (
        {"prompt": WEATHER[:4], "completion": WEATHER[4:]},
        "prompts and completions (TRL): 'prompt' is the question, 'completion' the answer",
        ("And tomorrow?", "Sun.", None),
    ),
    "alpaca": (
        {"instruction": "Sort these.", "input": "3 1 2", "output": "1 2 3"},
        "instructions (Alpaca): 'instruction' with 'input' below it is the question, 'output' the answer",
        ("Sort these.\n\n3 1 2", "1 2 3", None),
    ),
    "dolly": (
        {"instruction": "Who?", "context": "", "response": "Ada."},
        "instructions (Dolly): 'instruction' with 'context' below it is the question, 'response' the answer",
        ("Who?", "Ada.", None),
    ),
    "gsm8k": (
        {"question": "2 pens at 600?", "answer": "2*600=1200\n#### 1,200"},
        "questions and answers (GSM8K): the reference is what follows #### in the answer",
        ("2 pens at 600?", "2*600=1200\n#### 1,200", "1200"),
    ),
    "mmlu": (
        {"question": "1+1?", "subject": "sums", "choices": ["2", "4", "6"], "answer": 0},
        "questions with choices: 'question' and the choices in 'choices', lettered from A, are the question",
        ("1+1?\n\nA. 2\nB. 4\nC. 6", "A", "A"),
    ),
    "boolq": (
        {"question": "is 2 even", "answer": True, "passage": "2 is even."},
        "questions to answer with yes or no: 'question' with 'passage' below it is the question",
        ("is 2 even\n\n2 is even.", "yes", "yes"),
    ),
    "sciq": (
        {"question": "What?", "distractor2": "b", "distractor1": "c", "correct_answer": "a", "support": "It is a."},
        "questions with a right answer and wrong ones: 'question' with 'support' below it is the question",
        ("What?\n\nIt is a.\n\nA. a\nB. b\nC. c", "A", "A"),
    ),
    "tulu-rlvr": (
        {"messages": [{"role": "user", "content": "1+1?"}], "ground_truth": "2", "dataset": "gsm8k"},
        "conversations with short answers: 'messages' is the question, and 'ground_truth' both answer and reference",
        ("1+1?", "2", "2"),
    ),
    "lima": (
        {"conversations": ["1+1?", "2"], "source": "web"},
        "conversations (chat messages): the last turn of the assistant in 'conversations' is the answer",
        ("1+1?", "2", None),
    ),
    "natural-instructions": (
        {"id": "t1", "definition": "Sort these.", "inputs": "3 1 2", "targets": "1 2 3"},
        "tasks with definitions (Natural Instructions): 'definition' with 'inputs' below it is the question",
        ("Sort these.\n\n3 1 2", "1 2 3", None),
    ),
    "pubmed-qa": (
        {
            "question": "Does it?",
            "context": {"contexts": ["It may.", "It did."], "labels": ["A", "B"]},
            "long_answer": "It does so.",
            "final_decision": "yes",
        },
        "questions with long answers (PubMedQA): 'question' with 'context.contexts' below it is the question, "
        "'long_answer' the answer; 'final_decision' is the reference",
        ("Does it?\n\nIt may.\n\nIt did.", "It does so.", "yes"),
    ),
    "hotpot-qa": (
        {
            "question": "Who?",
            "answer": "Ada",
            "context": {"title": ["a", "b"], "sentences": [["One.", " Two."], ["3."]]},
        },
        "questions and answers: 'context.sentences' is put below the question",
        ("Who?\n\nOne. Two.\n\n3.", "Ada", None),
    ),
    "ms-marco": (
        {"query": "Who?", "answers": "Ada", "passages": {"passage_text": ["Ada.", "Bob."], "is_selected": [1, 0]}},
        "questions with short answers: 'query' with 'passages.passage_text' below it is the question, and 'answers'",
        ("Who?\n\nAda.\n\nBob.", "Ada", "Ada"),
    ),
    "code-feedback": (
        {"query": "Double it.", "answer": "Write f first, and then call it with 2.", "resource": "web"},
        "questions with answers: 'query' is the question, 'answer' the answer",
        ("Double it.", "Write f first, and then call it with 2.", None),
    ),
    "instruction-and-answer": (
        {"instruction": "1+1?", "answer": "2"},
        "questions with short answers: 'instruction' is the question, and 'answer' both answer and reference",
        ("1+1?", "2", "2"),
    ),
    "counselling": (
        {"Context": "I am sad.", "Response": "Since when?"},
        "contexts with responses: 'context' is the question, 'response' the answer",
        ("I am sad.", "Since when?", None),
    ),
    "svamp": (
        {"ID": "s1", "Body": "Ada has 2 pens.", "Question": "How many?", "Answer": "2"},
        "questions and answers: 'body' is put below the question",
        ("How many?\n\nAda has 2 pens.", "2", None),
    ),
    "synthetic-1": (
        {"prompt": "1+1?", "verification_info": {"ground_truth": "2"}, "gold_standard_solution": "Two."},
        "questions with short answers: 'prompt' is the question, and 'verification_info.ground_truth' both answer and",
        ("1+1?", "2", "2"),
    ),
    "context-and-response": (
        {"question": "Who?", "context": "Ada came.", "response": "Ada did."},
        "questions with responses: 'question' with 'context' below it is the question, 'response' the answer",
        ("Who?\n\nAda came.", "Ada did.", None),
    ),
    "question-answer": ({"question": "1+1?", "answer": "2"}, "questions and answers", ("1+1?", "2", None)),
    "boxed": (
        {"problem": "Half of one?", "solution": r"First \boxed{1}, then \boxed{\frac{1}{2}}."},
        "problems with solutions: 'problem' is the question, 'solution' the answer; the reference is what stands in "
        "the last \\boxed{} in the answer",
        ("Half of one?", r"First \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    ),
    "metamath": (
        {"type": "MATH_Rephrased", "query": "2 and 2?", "response": "Add them.\nThe answer is: 4"},
        "queries with responses: 'query' is the question, 'response' the answer; the reference is what follows 'the "
        "answer is' at the end in the answer",
        ("2 and 2?", "Add them.\nThe answer is: 4", "4"),
    ),
    "metamath-gsm": (
        {"query": "2 and 3?", "response": "Add them.\n#### 5\nThe answer is: 5"},
        "queries with responses: 'query' is the question, 'response' the answer; the reference is what follows ####",
        ("2 and 3?", "Add them.\n#### 5\nThe answer is: 5", "5"),
    ),
    "messages-and-answer": (
        {"problem": "3+3?", "answer": "6", "messages": [*WEATHER[:4], {"role": "assistant", "content": "So, 6."}]},
        "conversations (chat messages): the last turn of the assistant in 'messages' is the answer, the turns before "
        "it are context; 'answer' is the reference",
        ("And tomorrow?", "So, 6.", "6"),
    ),
    "solution-and-answer": (
        {"question": "1+2?", "solution": "One more than two is 3.", "answer": "3"},
        "questions with solutions: 'question' is the question, 'solution' the answer; 'answer' is the reference",
        ("1+2?", "One more than two is 3.", "3"),
    ),
    "final-answer": (
        {"question": "1+3?", "answer": "One more than three is 4.", "final_answer": "4"},
        "questions and answers: 'final_answer' is the reference",
        ("1+3?", "One more than three is 4.", "4"),
    ),
    "short-answers": (
        {"problem": "1+4?", "answer": "5"},
        "problems with answers: 'problem' is the question, 'answer' the answer",
        ("1+4?", "5", None),
    ),
    "prompt-and-solution": (
        {"prompt": WEATHER[:2], "solution": "No.", "ground_truth": "no"},
        "prompts with solutions: 'prompt' is the question, 'solution' the answer; 'ground_truth' is the reference",
        ("Rain today?", "No.", "no"),
    ),
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"split": "train", "index": 3, "answer": "One and one are 2."},
        },
        "prompts with checked answers (verl): 'prompt' is the question, 'extra_info.answer' the answer; "
        "'reward_model.ground_truth' is the reference",
        ("1+1?", "One and one are 2.", "2"),
    ),
    "verl-short": (
        {"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": {"style": "rule", "ground_truth": "2"}},
        "questions with short answers: 'prompt' is the question, and 'reward_model.ground_truth' both answer and "
        "reference",
        ("1+1?", "2", "2"),
    ),
    "mbpp": (
        {"task_id": 1, "text": "Double a number.", "code": "def f(x): return 2*x", "test_list": ["assert f(1) == 2"]},
        "tasks with code and tests (MBPP): 'text' is the question, 'code' the answer",
        ("Double a number.", "def f(x): return 2*x", None),
    ),
    "boxed-and-answer": (
        {"problem": "1+1?", "solution": r"So \boxed{2}.", "answer": "2"},
        "problems with solutions: 'problem' is the question, 'solution' the answer; 'answer' is the reference",
        ("1+1?", r"So \boxed{2}.", "2"),
    ),
}


def printed(cell):
    """A cell as pandas writes it into a CSV file: it prints lists as NumPy's arrays, also those in structures."""
    if isinstance(cell, dict):
        return str({key: np.array(one, dtype=object) if isinstance(one, list) else one for key, one in cell.items()})
    return str(np.array(cell, dtype=object)) if isinstance(cell, list) else cell


def write(folder: Path, ending: str, rows):
    """The rows as a file of that kind; CSV holds lists as JSON."""
    path = folder / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",")
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow([json.dumps(one) if isinstance(one, list | dict) else one for one in row.values()])
    return path


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
    with pytest.raises(BadInputError, match=rf"rows\.jsonl:2: 'label' is false, so '{answer}' is what shall not be"):
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
