"""What is read from answers as servers write them."""

from __future__ import annotations

import time

import pytest

from lorapar.voting.endpoint_failures import failure_of
from lorapar.voting.endpoint_reply import Choice, JsonEnum, body_of, json_objects, reply_of
from lorapar.voting.teacher import Prompt

PROMPT = Prompt(({"role": "user", "content": "Kind:"},), None, {"system1": "Fact", "system2": "Maths"})
YES = '{"label": "Maths"}'


def reply(content, ended="stop", usage=None, **message):
    choice = {"message": {"content": content, **message}, "finish_reason": ended}
    return reply_of({"choices": [choice], "usage": usage})


@pytest.mark.parametrize(
    "content",
    [
        YES,
        f"```json\n{YES}\n```",
        f"Sure, here it is:\n\n{YES}\n\nIt takes {{several}} steps.",
        "{'label': 'Maths'}",
        '{\n  "label" : "Maths"\n}   \n',
        '{"label": "maths"}',
        '{"answer": "Maths"}',
        '{"result": {"label": "Maths"}}',
        f'<think>{{"label": "Fact"}}? No.</think>{YES}',
        f'It could be {{"label": "Fact"}}, no.</think>\n\n{YES}',
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{YES}",
        f"[THINK]Hm.[/THINK]{YES}",
        [{"type": "text", "text": YES}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": '{"label": "Fact"}'}]},
            {"type": "text", "text": YES},
        ],
        {"label": "Maths"},
        "Maths",
        '"Maths."',
        "**Maths**",
        "Label: Maths",
        "The label is **Maths**.",
        "<answer>Maths</answer>",
        "{label: Maths}",
        '{"label": ["Maths"]}',
        f'<Thought>{{"label": "Fact"}}</Thought>{YES}',
        f'<seed:think>{{"label": "Fact"}}</seed:think>{YES}',
        f'[BEGIN THINKING]{{"label": "Fact"}}[END THINKING]{YES}',
        f'analysis{{"label": "Fact"}}? No.assistantfinal{YES}',
        "<|START_THINKING|>Fact?<|END_THINKING|><|START_RESPONSE|>Maths<|END_RESPONSE|>",
        "Maths<|im_end|>",
        "<|begin|> Maths <|im_end|>\n</s><eos>",
        [{"text": '{"label": "Fact"}', "thought": True}, {"text": YES}],
    ],
    ids=str,
)
def test_the_label_is_read_whatever_stands_around_it(content) -> None:
    assert JsonEnum().read(reply(content), PROMPT).label == "system2"


def test_control_tokens_in_the_middle_stay_and_cost_no_time() -> None:
    started = time.process_time()
    answer = "a" + "<|x|>" * 4000 + "b"
    assert reply(answer + "<|im_end|>").text == answer
    assert time.process_time() - started < 0.5, "1.2 s where each place is tried"


@pytest.mark.parametrize(
    "content",
    [
        '{"label": "Fact"} or {"label": "Maths"}',
        '{"label": 2}',
        '{"label": ["Fact", "Maths"]}',
        "Maths or Fact",
        "The label is not Maths",
        "{label}",
        "{" * 5000,
        "",
        None,
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_one_of_the_words_is_no_label(content) -> None:
    assert JsonEnum().read(reply(content), PROMPT).label is None
    assert Choice().read(reply(content), PROMPT).label is None


def test_words_that_differ_in_case_alone_are_told_apart() -> None:
    prompt = Prompt(PROMPT.messages, None, {"system1": "a", "system2": "A"})
    assert Choice().read(reply("A"), prompt).label == "system2"
    assert Choice().read(reply('"A"'), prompt).label is None


@pytest.mark.parametrize(
    ("content", "message", "usage"),
    [
        (YES, {"reasoning_content": "Let me see."}, None),
        (YES, {"reasoning": "Let me see."}, None),
        (YES, {"thoughts": "Let me see."}, None),
        (YES, {"thinking_blocks": [{"type": "thinking", "thinking": "Let me see."}]}, None),
        (YES, {"reasoning_details": [{"type": "reasoning.text", "text": "Let me see."}]}, None),
        (f"<think>Hm.</think>{YES}", {}, None),
        (YES, {}, {"completion_tokens_details": {"reasoning_tokens": 64}}),
    ],
)
def test_thinking_is_noticed_and_is_no_part_of_the_text(content, message, usage) -> None:
    found = reply(content, usage=usage, **message)
    assert (found.thinks, found.text, found.is_cut_off) == (True, YES, False)
    assert not reply(YES).thinks


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"function": {"name": "label", "arguments": YES}}]},
        {"tool_calls": [{"function": {"name": "label", "arguments": {"label": "Maths"}}}]},
        {"function_call": {"name": "label", "arguments": YES}},
        {"parsed": {"label": "Maths"}},
    ],
)
def test_the_label_is_read_where_a_server_puts_what_a_schema_holds(message) -> None:
    assert JsonEnum().read(reply(None, **message), PROMPT).label == "system2"


def test_comments_that_keep_a_connection_alive_stand_before_an_answer() -> None:
    assert body_of(': PROCESSING\n\n: PROCESSING\n\n{"choices": [1]}') == {"choices": [1]}


@pytest.mark.parametrize(
    "text",
    [
        'event: error\ndata: {"code": 429, "message": "slowly"}\n\n',
        '{"statusCode": 429, "body": "{\\"error\\": {\\"code\\": 429, \\"message\\": \\"slowly\\"}}"}',
        '{"data": {"error": {"code": 429, "message": "slowly"}}}',
    ],
)
def test_an_error_in_a_stream_or_a_wrapper_is_no_answer(text) -> None:
    failure = failure_of(200, {}, text, body_of(text), 0.0)
    assert (failure.status, failure.words) == (429, "HTTP 200 (429 inside) slowly")


CHUNK = 'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize(
    ("before", "behind", "text"),
    [
        ('data: {"status": "queued", "message": "waiting for a worker"}\n\n', "", "yes"),
        ('data: {"object": "info", "detail": "cold start"}\n\n', "", "yes"),
        ("", 'data: {"type": "done", "message": "ok"}\n\n', "yes"),
        ("", 'data: {"code": 503, "message": "gone"}\n\n', None),
        ("", 'data: {"type": "error", "message": "gone"}\n\n', None),
        ("", 'event: error\ndata: {"message": "gone"}\n\n', None),
    ],
)
def test_a_message_beside_a_streamed_answer_is_a_failure_only_where_it_says_so(before, behind, text) -> None:
    body = body_of(before + CHUNK + behind)
    if text is not None:
        assert failure_of(200, {}, "", body, 0.0) is None
        assert reply_of(body).text == text
    else:
        assert "gone" in failure_of(200, {}, "", body, 0.0).words
    if before:
        assert failure_of(200, {}, before, body_of(before), 0.0).status == 520


def test_a_mark_of_a_thought_is_no_text() -> None:
    assert reply("", thought=True).text == ""


def test_an_answer_that_was_put_among_the_thoughts_is_read() -> None:
    assert JsonEnum().read(reply(None, reasoning_content=YES), PROMPT).label == "system2"
    assert reply(None, reasoning_content="I wonder whether " + YES).text == ""
    assert reply(None, "length", reasoning_content="Maths").text == ""


@pytest.mark.parametrize(
    ("content", "ended"),
    [
        (None, "length"),
        ("", "MAX_TOKENS"),
        ("", "max_new_tokens"),
        ("<think>Let me", "stop"),
        ('{"la', "length"),
        ('{"label": "Maths', "length"),
    ],
)
def test_an_answer_that_was_cut_off_is_known(content, ended) -> None:
    found = reply(content, ended)
    assert found.is_cut_off
    assert JsonEnum().read(found, PROMPT).label is None


def test_thoughts_without_an_answer_are_one_that_was_cut_off() -> None:
    assert reply(None, "stop", reasoning="Let me see what kind").is_cut_off
    assert not reply("", "stop").is_cut_off


def test_a_refusal_of_the_provider_or_the_model_is_known() -> None:
    assert reply(None, "content_filter").refusal == "content_filter"
    assert reply(None, refusal="I cannot help with that.").refusal == "I cannot help with that."
    assert reply(YES, refusal=None).refusal is None


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 12}, 12),
        ({"prompt_tokens": 3, "completion_tokens": 4}, 7),
        ({"input_tokens": 3, "output_tokens": 5}, 8),
        ({"total_tokens": None}, 0),
        ({"total_tokens": "many"}, 0),
        (None, 0),
        ([], 0),
    ],
)
def test_tokens_are_counted_as_the_endpoint_says(usage, tokens) -> None:
    assert reply(YES, usage=usage).tokens == tokens


def test_objects_are_found_in_their_order() -> None:
    assert list(json_objects('a {"b": {"c": 1}} {x} {\'d\': 2} {')) == [{"b": {"c": 1}}, {"d": 2}]
