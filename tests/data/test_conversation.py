"""Conversations of several turns: what becomes of every message, and one line for what cannot be trained on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data import load_data
from lorapar.errors import BadInputError

ASKED = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Because."}


def loaded(tmp_path, *rows, **values):
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_data(DataConfig(source=str(path), heldout=0, **values), seed=0)


@pytest.mark.parametrize(
    "turns",
    [
        ["1+1?", "2", "Why?", "Because."],
        [{"human": "1+1?", "assistant": "2", "id": 7}, {"human": "Why?", "assistant": "Because."}],
        [{"question": "1+1?", "answer": "2"}, {"answer": "Because.", "question": "Why?"}],
    ],
)
def test_texts_that_are_said_in_turn_are_a_conversation(tmp_path, turns):
    """As LIMA and Firefly have them, also as text."""
    for cell in (turns, json.dumps(turns), str(turns)):
        (example,) = loaded(tmp_path, {"conversation": cell}).examples
        assert (example.question, example.answer) == ("Why?", "Because.")
        assert [(turn.role, turn.content) for turn in example.history] == [("user", "1+1?"), ("assistant", "2")]


@pytest.mark.parametrize("also", [{}, {"source": "web"}])
def test_a_conversation_that_nobody_answers_is_refused_for_that(tmp_path, also):
    with pytest.raises(
        BadInputError, match=r"talk\.jsonl:1: a row without an answer \('messages' has no turn of the ass"
    ):
        loaded(tmp_path, {"messages": [ASKED], **also})
    with pytest.raises(BadInputError, match=r"no columns that say what is asked and answered; it has: title, contents"):
        loaded(tmp_path, {"title": "Cats", "contents": ["One purrs.", "Two sleep."]})


@pytest.mark.parametrize("key", ["role", "from"])
def test_a_reference_answers_the_turn_of_the_user_at_the_end(tmp_path, key):
    """Rows for RL with turns before the question."""
    text = {"role": "content", "from": "value"}[key]
    said = [("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")]
    messages = [{key: role, text: words} for role, words in said]
    (example,) = loaded(tmp_path, {"messages": messages, "ground_truth": "4"}).examples
    assert (example.question, example.answer, example.reference) == ("2+2?", "4", "4")
    assert [turn.content for turn in example.history] == ["1+1?", "2"]
    whole = {"messages": [*messages, {key: "assistant", text: "It is 4."}], "ground_truth": "4"}
    with pytest.raises(BadInputError, match=r"talk\.jsonl:2: 'messages' ends with a turn of the user, and 'ground_tr"):
        loaded(tmp_path, whole, {"messages": messages, "ground_truth": "4"})
    many = [{"messages": [{key: "user", text: f"{n}?"}], "ground_truth": "4"} for n in range(33)]
    with pytest.raises(BadInputError, match=r"talk\.jsonl:34: 'messages' ends with a turn of the assistant, and 'gro"):
        loaded(tmp_path, *many, whole)


@pytest.mark.parametrize("turns", [["1+1?"], ["1+1?", 2], [{"human": "1+1?"}], [[]], []])
def test_what_is_no_conversation_is_refused(tmp_path, turns):
    with pytest.raises(BadInputError, match=r"no columns that say what is asked and answered"):
        loaded(tmp_path, {"conversation": turns})


@pytest.mark.parametrize(
    ("row", "field", "why"),
    [
        ({"messages": [ASKED, {**SAID, "content": None, "tool_calls": [{"function": {"name": "f"}}]}]},
         "'messages[1].tool_calls'", "holds a tool call, and only text is trained"),
        ({"messages": [ASKED, SAID, {"role": "tool", "content": "3"}, SAID]}, "'messages[2].role'", "is tool: a tool"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}]},
         "'conversations[1].from'", "is function_call"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image"}]}, SAID]},
         "'messages[0].content[1]'", "holds an image, and only text is trained"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "data": "x"}]}, SAID]},
         "'messages[0].content[0]'", "holds an audio"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "completion": [SAID]},
         "'prompt[0].content[0]'", "holds an image"),
        ({"image": "cat.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "c"}]},
         "'image'", "holds an image, and only text is trained"),
        ({"images": [{"bytes": "x"}], "question": "What?", "answer": "A cat"}, "'images'", "holds an image"),
        ({"messages": [{"role": "narrator", "content": "x"}, SAID]}, "'messages[0].role'", "is 'narrator'; use system"),
        ({"messages": [ASKED]}, "'messages'", "a row without an answer"),
        ({"messages": [SAID]}, "'messages'", "a row without a question"),
        ({"messages": [ASKED, {"role": "system", "content": "x"}, SAID]}, "'messages'", "a system message behind"),
        ({"messages": [ASKED, {**SAID, "content": " "}]}, "'messages[1].content'", "is empty"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "'messages'", "every turn of the assistant in"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "'messages[1].weight'", "is 0.5; known are 0 (not learned)"),
        ({"messages": [ASKED, {**SAID, "content": 4}]}, "'messages[1].content'", "is not text but int"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_one_line_that_names_row_and_field(tmp_path, row, field, why):
    good = {**row, **{key: [ASKED, SAID] for key in row if key in ("messages", "conversations")}}
    good = {**good, **{key: None for key in row if key.startswith("image")}}
    if "prompt" in row:
        good = {"prompt": [ASKED], "completion": [SAID]}
    with pytest.raises(BadInputError) as caught:
        loaded(tmp_path, good, row)
    message = str(caught.value)
    assert "\n" not in message
    assert field in message
    assert why in message
    assert message.startswith(f"{tmp_path}/talk.jsonl:2: ")
    assert message.endswith("; fix the row, or set data.bad_rows=leave_out")
    kept = loaded(tmp_path, good, row, bad_rows="leave_out")
    assert len(kept.examples) == len(kept.left_out) == 1


def test_what_is_made_of_odd_conversations_is_counted_and_reported(tmp_path):
    rows = [
        {"messages": [ASKED, SAID, {"role": "user", "content": "And then?"}]},
        {"messages": [{"role": "user", "content": "Look:"}, {"role": "user", "content": "why?"}, SAID]},
        {
            "messages": [{"role": "user", "content": "Who?"}, {**SAID, "reasoning_content": "Hm."}],
            "tools": [{"name": "f"}],
        },
    ]
    found = loaded(tmp_path, *rows)
    assert [one.question for one in found.examples] == ["Why?", "Look:\n\nwhy?", "Who?"]
    assert {one.answer for one in found.examples} == {"Because."}
    assert found.notes[1:] == [
        "1 of 3 rows end with a turn of the user, which nobody answers: it is left out",
        "1 of 3 rows have turns of one role in a row, which are joined by a blank line",
        "1 of 3 rows list 'tools' and call none; the column is not read",
        "1 of 3 rows have thoughts in 'reasoning_content', which are left out; write them into the content to have "
        "them learned",
    ]


CALL = '[{"name": "look", "arguments": {"at": 1}}]'


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "completion": [SAID], "tools": [{"name": "f"}]},
        {"question": "Why?", "answer": "Because of [{'name': 1}].", "tools": '[{"name": "f"}]'},
    ],
)
def test_tools_of_which_the_model_is_not_told_are_said_in_every_format(tmp_path, row):
    assert "1 of 1 rows list 'tools' and call none; the column is not read" in loaded(tmp_path, row).notes


TURNED = '[{"arguments": {"at": 1}, "name": "look"}]'


@pytest.mark.parametrize(
    "answer", [CALL, TURNED, "<tool_call>\n{}\n</tool_call>", '<functioncall> {"name": "f"}', "[TOOL_CALLS] [{}]"]
)
def test_a_call_of_a_tool_as_text_is_refused_where_the_row_lists_tools(tmp_path, answer):
    row = {"query": "There", "tools": '[{"name": "look"}]', "answers": answer}
    row = row if answer == CALL else {"question": "There", "tools": row["tools"], "answer": answer}
    named = {"question": next(iter(row)), "answer": "answers" if answer == CALL else "answer"}
    said = ", ".join(f"data.columns.{part}={column}" for part, column in named.items())
    with pytest.raises(BadInputError, match=f"not told of 'tools'; set {said} and data.columns.context=tools to write"):
        loaded(tmp_path, row)
    with pytest.raises(BadInputError, match=f"set {said} to train on it anyway"):
        loaded(tmp_path, {**row, "tools": [{"name": "look"}]})
    (example,) = loaded(tmp_path, row, columns={**named, "context": "tools"}).examples
    assert example.question == f"There\n\n{row['tools']}"
    talk = {"messages": [ASKED, {**SAID, "content": answer}], "tools": row["tools"]}
    with pytest.raises(BadInputError, match=r"set data\.columns\.messages=messages to train on it anyway"):
        loaded(tmp_path, talk)
    told = {**talk, "messages": [{"role": "system", "content": "You may look(at)."}, *talk["messages"]]}
    for whole in (
        loaded(tmp_path, row, columns=named),
        loaded(tmp_path, talk, columns={"messages": "messages"}),
        loaded(tmp_path, told),
    ):
        assert whole.examples[0].answer == answer
        assert "1 of 1 rows list 'tools' and call some in a text; the column is not read" in whole.notes
    (note,) = loaded(tmp_path, {"messages": talk["messages"]}).notes[1:]
    assert note == "1 of 1 rows call a tool in a text, which is learned as a text"


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([{"name": "Get Weather", "parameters": {}}], "You may use Get Weather."),
        (["look", "seek"], "You have seek."),
        (json.dumps([json.dumps({"name": "look"})]), "look at things"),
        ([{"type": "function", "function": {"name": "look"}}], 'Tools: [{"name": "look"}]'),
        ("[{'function_declarations': [{'name': 'look'}]}]", "You have look."),
        ("see the manual", "You have some tools."),
    ],
)
def test_a_conversation_that_names_a_tool_of_the_row_is_told_of_it(tmp_path, tools, said):
    turns = [{"role": "system", "content": said}, ASKED, {**SAID, "content": CALL}]
    assert loaded(tmp_path, {"messages": turns, "tools": tools}).examples[0].answer == CALL


@pytest.mark.parametrize(
    ("tools", "row", "is_told"),
    [
        (["add"], {"question": "What is my address?"}, False),
        (["add"], {"question": "Please add 2 and 3."}, False),
        ([{"name": "look", "parameters": {"at": {"name": "city"}}}], {"question": 'Fill in {"name": "city"}.'}, False),
        (["add", "sub"], {"question": "You have add(a, b). 2 + 3?"}, False),
        (["add", "sub"], {"question": "You have add(a, b) and sub(a, b). 2 + 3?"}, True),
        (["add"], {"instruction": "2 + 3?", "input": '[{"name": "add"}]'}, True),
        (["add"], {"instruction": "2 + 3?", "history": [["What have you?", "A tool, `add`."]]}, True),
        (["add"], {"system": "You have the tool add.", "instruction": "2 + 3?"}, True),
    ],
)
def test_a_question_tells_of_tools_where_it_lists_them_all(tmp_path, tools, row, is_told):
    row = {**row, ("output" if "instruction" in row else "answer"): CALL, "tools": tools}
    if is_told:
        assert loaded(tmp_path, row).examples[0].answer == CALL
        return
    with pytest.raises(BadInputError, match="the model is not told of 'tools'"):
        loaded(tmp_path, row)


def test_turns_of_weight_0_are_context_and_never_the_answer(tmp_path):
    bad, good = ({"role": "assistant", "content": text, "weight": weight} for text, weight in (("Hm?", 0), ("So.", 1)))
    more = {"role": "user", "content": "More?"}
    first, last = loaded(
        tmp_path, {"messages": [ASKED, bad, more, good]}, {"messages": [ASKED, good, more, bad]}
    ).examples
    assert (first.question, first.answer, [turn.learned for turn in first.history]) == ("More?", "So.", [None, False])
    assert (last.question, last.answer, last.history) == ("Why?", "So.", None)
    (note,) = loaded(tmp_path, {"messages": [ASKED, good, more, bad]}).notes[1:]
    assert note.startswith("1 of 1 rows have turns of the assistant with weight 0: they are context")


GEMINI = {
    "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
    "contents": [{"role": "user", "parts": [{"text": "Why?"}]}, {"role": "model", "parts": [{"text": "Because."}]}],
}
BEDROCK = {
    "system": [{"text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"text": "Why?"}]},
        {"role": "assistant", "content": [{"text": "Because."}]},
    ],
}
RESPONSES = {
    "system_prompt": "Be brief.",
    "messages": [
        {"role": "user", "content": [{"type": "input_text", "text": "Why?"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Because."}]},
    ],
}


@pytest.mark.parametrize("row", [GEMINI, BEDROCK, RESPONSES], ids=["gemini", "bedrock", "responses"])
def test_messages_as_other_services_write_them(tmp_path, row):
    (example,) = loaded(tmp_path, row).examples
    assert (example.system_message, example.question, example.answer) == ("Be brief.", "Why?", "Because.")


def test_pictures_beside_columns_that_are_named_are_reported_and_not_read(tmp_path):
    row = {"ask": "What?", "tell": "A cat", "image": "cat.png"}
    found = loaded(tmp_path, row, columns=ColumnMapping(question="ask", answer="tell"))
    assert found.notes == ["1 of 1 rows have something in 'image', which is not read"]


@pytest.mark.parametrize(
    "history",
    [[["Hi", "Hello"]], '[["Hi", "Hello"]]', [{"role": "user", "content": "Hi"}, {**SAID, "content": "Hello"}]],
)
@pytest.mark.parametrize(
    "row", [{"instruction": "Why?", "input": "Now.", "output": "Because."}, {"question": "Why?", "answer": "Because."}]
)
def test_turns_in_a_column_beside_the_question_are_context(tmp_path, row, history):
    """LLaMA-Factory's Alpaca rows have such a `history`."""
    found = loaded(tmp_path, {**row, "history": history})
    (example,) = found.examples
    assert [(turn.role, turn.content) for turn in example.history] == [("user", "Hi"), ("assistant", "Hello")]
    assert (example.question, example.answer) == ("Why?\n\nNow." if "input" in row else "Why?", "Because.")
    assert found.notes[-1] == "1 of 1 rows have turns before the question in 'history'"
    other = loaded(tmp_path, {**row, "history": "once upon a time"})
    assert (other.examples[0].history, other.notes[-1]) == (
        None,
        "1 of 1 rows have something in 'history', which is not read",
    )


def test_content_in_parts_and_columns_of_lists_are_read(tmp_path):
    parts = [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]
    (first,) = loaded(tmp_path, {"messages": [{"role": "user", "content": parts}, SAID]}).examples
    lists = {"from": ["human", "gpt"], "value": ["Why?", "Because."]}  # as `datasets` keeps a sequence of structures
    (second,) = loaded(tmp_path, {"conversations": lists}).examples
    assert first == second


def test_a_question_after_other_turns_is_another_question(tmp_path):
    before = [{"role": "user", "content": "A or B?"}, {"role": "assistant", "content": "A."}]
    rows = [{"messages": [ASKED, SAID]}, {"messages": [*before, ASKED, SAID]}]
    assert len({one.id for one in loaded(tmp_path, *rows).examples}) == 2
    with pytest.raises(BadInputError, match=r"talk\.jsonl:2: asks the same question as .*:1"):
        loaded(tmp_path, rows[1], rows[1])


TEXT = st.text("abc .", min_size=1, max_size=8).filter(lambda text: text.strip())


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.none() | TEXT)
def test_every_turn_is_somewhere_and_the_last_two_are_question_and_answer(tmp_path_factory, pairs, system):
    turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair)]  # noqa: B905
    opening = [{"role": "system", "content": system}] if system else []
    (one,) = loaded(tmp_path_factory.getbasetemp(), {"messages": [*opening, *turns]}).examples
    read = [turn.model_dump(exclude_none=True) for turn in one.history or ()]
    read += [{"role": "user", "content": one.question}, {"role": "assistant", "content": one.answer}]
    assert read == turns  # white space is a part of a message
    assert one.system_message == system


def test_white_space_of_messages_is_kept_and_does_not_make_another_question_or_reference(tmp_path):
    message = {"role": "assistant", "content": "  2*3=6\n#### 6\n"}
    rows = [{"messages": [{"role": "user", "content": f"{blank}2 pens at 3?\n"}, message]} for blank in ("", " ")]
    with pytest.raises(BadInputError, match="question"):
        loaded(tmp_path, *rows)
    (one,) = loaded(tmp_path, rows[1]).examples
    assert (one.question, one.answer, one.reference) == (" 2 pens at 3?\n", "  2*3=6\n#### 6\n", "6")
    with pytest.raises(BadInputError, match=r"'messages\[0\]\.content' is empty"):
        loaded(tmp_path, {"messages": [{"role": "user", "content": " \n"}, message]})
