"""Servers and gateways with habits of their own: every row gets its vote, or one line why not."""

from __future__ import annotations

import json
import re

import pytest

from lorapar.config.capture import CaptureTeacher
from lorapar.errors import BadInputError, UnreachableError
from lorapar.voting.endpoint_request import Asker, RoomByLength
from lorapar.voting.endpoint_teacher import EndpointTeacher
from lorapar.voting.endpoint_text import TextTeacher
from tests.voting.api_server import MODEL, serving
from tests.voting.test_endpoint import ROWS, ask, config, refusal

RESTRICTIONS = ("structured_outputs", "response_format")


def whole(text, **message):
    """An answer as the API says."""
    return {"choices": [{"message": {"content": text, **message}, "finish_reason": "stop"}]}


def in_words(body):
    """The JSON that a prompt asks for in words, or small talk."""
    asked = re.findall(r'\{"label": "\w+"\}', body["messages"][-1]["content"])
    return asked[-1] if asked else "Hello!"


def only_completions(habit):
    """A habit of requests about answers alone."""
    return lambda api, path, headers, body: habit(api, body) if "completions" in path else None


@pytest.mark.parametrize(
    ("status", "refused"),
    [(500, RESTRICTIONS), (501, RESTRICTIONS), (500, ("response_format",))],
)
def test_a_server_that_falls_over_a_way_of_asking_is_asked_in_another(status, refused) -> None:
    def habit(api, body):
        if any(name in body for name in refused):
            return status, "Internal Server Error", {"Content-Type": "text/plain"}
        return 200, whole(in_words(body)), {}

    with serving(habit=only_completions(habit)) as api:
        assert all(vote.label for vote in ask(config(api, attempts=2)).values())


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (500, UnreachableError, "HTTP 500 boom, after 2 tries"),
        (501, BadInputError, "structured_outputs: /chat/completions: HTTP 501 boom"),
    ],
)
def test_a_server_that_falls_over_everything_is_reported_in_its_own_words(status, kind, words) -> None:
    with serving(habit=lambda *_: (status, {"error": {"message": "boom"}}, {})) as api:
        with pytest.raises(kind, match=words):
            ask(config(api, attempts=2))
        assert status == 500 or len(api.bodies) == 5  # each way once


def test_501_in_the_middle_of_a_round_ends_the_teacher_at_once() -> None:
    def habit(api, body):
        return (501, {"error": {"message": "boom"}}, {}) if api.asked("Tiny") else None

    with serving(habit=only_completions(habit)) as api:
        with pytest.raises(BadInputError, match=r"row r0: .*HTTP 501 boom"):
            ask(config(api, concurrency=1))
        assert len(api.asked("Tiny")) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["event: message{}id: 1{}", ": ping{}{}retry: 100{}", ""])
def test_a_stream_is_read_whatever_fields_its_events_have(head, end) -> None:
    def habit(api, body):
        chunks = [{"choices": [{"delta": {"content": letter}}]} for letter in api.reply(body)]
        events = [head.replace("{}", end) + f"data: {json.dumps(chunk)}{end}{end}" for chunk in chunks]
        return 200, "".join(events) + f"data: [DONE]{end}{end}", {"Content-Type": "text/event-stream"}

    with serving(habit=only_completions(habit)) as api:
        assert all(vote.label for vote in ask(config(api)).values())


@pytest.mark.parametrize(
    "packed",
    [lambda answer: json.dumps(answer), lambda answer: {"statusCode": 200, "body": json.dumps(answer)}],
    ids=["text", "body"],
)
def test_an_answer_that_a_gateway_packs_into_a_text_is_read(packed) -> None:
    def habit(api, body):
        return 200, json.dumps(packed(whole(api.reply(body)))), {}

    with serving(habit=only_completions(habit)) as api:
        assert all(vote.label for vote in ask(config(api)).values())


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: {asked}. This model supports at most 1024 completion tokens.",
        "'max_tokens' is too large: {asked}. This model's maximum context length is 1064 tokens and your request has "
        "40 input tokens ({asked} > 1064 - 40).",
        "This model's maximum context length is 1064 tokens. However, you requested 9999 tokens (40 in the messages, "
        "{asked} in the completion).",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 1024]",
        "max_tokens: {asked} > 1024, which is the maximum allowed number of output tokens",
        # What vLLM says of a prompt that it counts only until it is too long, or not at all.
        "This model's maximum context length is 1064 tokens. However, you requested {asked} output tokens and your "
        "prompt contains at least {beside} input tokens, for a total of at least 1065 tokens.",
        "This model's maximum context length is 1064 tokens. However, you requested {asked} output tokens and your "
        "prompt contains 90 characters (more than 0 characters, which is the upper bound for 0 input tokens).",
        "max_tokens exceeds what is left: this model's maximum context length is 99999 tokens, 40 in the prompt",
    ],
)
def test_a_model_that_thinks_and_takes_fewer_tokens_than_asked_is_asked_for_fewer(words) -> None:
    def habit(api, body):
        tokens = body["max_tokens"]
        if len(api.bodies) > 50:
            return 401, "asked without end", {}
        if tokens > 1050:
            filled = words.replace("{asked}", str(tokens)).replace("{beside}", str(max(0, 1065 - tokens)))
            return 400, {"error": {"message": filled, "param": "max_tokens"}}, {}
        if tokens < 700:
            choice = {"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}
            return 200, {"choices": [choice]}, {}
        return 200, whole(api.reply(body)), {}

    with serving(habit=only_completions(habit)) as api:
        votes = ask(config(api))
        assert all(vote.label for vote in votes.values()), [vote.raw for vote in votes.values()]
        assert all("max_tokens" in body for body in api.bodies)


def sharing_a_context(of, needed, refused):
    """A habit: prompt and answer share so many tokens, and an answer takes the needed ones; notes what it refuses."""

    def habit(api, body):
        inside, tokens = len(body["messages"][-1]["content"]) // 4, body["max_tokens"]
        if inside + tokens > of:
            refused.append(body)
            words = (
                f"maximum context length is {of} tokens and your request has {inside} input tokens ({tokens} > {of})"
            )
            return 400, {"error": {"message": f"max_tokens is too large: {words}", "param": "max_tokens"}}, {}
        if tokens < needed:
            choice = {"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}
            return 200, {"choices": [choice]}, {}
        return 200, whole(api.reply(body)), {}

    return only_completions(habit)


def test_room_that_one_row_left_is_where_longer_rows_begin() -> None:
    refused, lines = [], []
    with serving(habit=sharing_a_context(1200, 600, refused)) as api:
        teacher = EndpointTeacher(config(api, concurrency=1), target="Tiny", role_play=True, log=lines.append)
        assert all(vote.label for vote in teacher.votes(ROWS))
        teacher.close()
        assert len(api.asked("Tiny")) <= len(ROWS) + 2
    assert len(refused) <= 3
    assert len([line for line in lines if "fewer answer tokens where a prompt is long" in line]) == 1


def test_a_row_that_needs_more_room_than_others_left_gets_its_own() -> None:
    with serving(habit=sharing_a_context(1200, 900, [])) as api:
        votes = ask(config(api, concurrency=1))
    assert all(vote.label for vote in votes.values()), [vote.raw for vote in votes.values()]


def test_what_room_a_prompt_leaves_is_known_from_shorter_ones() -> None:
    rooms = RoomByLength()
    assert rooms.beside(10**6) is None
    rooms.learn(1000, 2000)
    rooms.learn(2000, 400)
    rooms.learn(3000, 800)  # no news: a shorter one left less
    assert [rooms.beside(length) for length in (999, 1000, 1999, 2000, 3000)] == [None, 1500, 1500, 300, 300]
    rooms.learn(500, 100)
    assert [rooms.beside(length) for length in (499, 500, 3000)] == [None, 75, 75]


def test_a_request_that_a_refusal_has_not_changed_is_not_sent_again(monkeypatch) -> None:
    with serving(habit=lambda *_: (400, {"error": {"message": "max_tokens"}}, {})) as api:
        monkeypatch.setattr(Asker, "_learned", lambda *_: len(api.bodies) < 50)
        refusal(config(api))
        assert len(api.bodies) < 40


def test_a_missing_field_is_named() -> None:
    missing = {"detail": [{"type": "missing", "loc": ["body", "top_k"], "msg": "Field required"}]}
    with serving(habit=lambda *_: (422, missing, {})) as api:
        assert "HTTP 422 top_k: Field required" in refusal(config(api))


def test_a_page_of_a_firewall_is_told_from_a_right_that_a_key_lacks() -> None:
    page = "<html><title>Attention Required!</title></html>"
    with serving(habit=lambda *_: (403, page, {"Content-Type": "text/html"})) as api:
        assert "a login page or a firewall answers there" in refusal(config(api))


@pytest.mark.parametrize(
    "words",
    [
        "System role not supported",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Only user and assistant roles are supported!",
    ],
)
def test_a_model_that_refuses_the_system_role_gets_its_text_with_the_question(words) -> None:
    def habit(api, body):
        if body["messages"][0]["role"] == "system":
            return 400, {"error": {"message": words, "param": "messages[0].role"}}, {}
        return 200, whole(body["messages"][0]["content"]), {}

    lines: list[str] = []
    with serving(habit=only_completions(habit)) as api:
        settings = CaptureTeacher(endpoint=api.address, model=MODEL, openai={"attempts": 2, "concurrency": 1})
        teacher = TextTeacher(settings, lines.append, "teacher")
        asked = {str(number): [("system", "Be brief."), ("user", f"{number}?")] for number in range(3)}
        assert dict(teacher.answers(asked)) == {name: f"Be brief.\n\n{name}?" for name in asked}
        assert len(api.bodies) == 4  # the first one was refused once
    assert ["takes no system message" in line for line in lines] == [True]


def test_a_timeout_names_its_setting_and_a_refusal_of_a_word_about_systems_is_no_refusal_of_the_role() -> None:
    with serving(seconds=0.4) as api, pytest.raises(UnreachableError, match=r"0\.1 s \(openai\.timeout_seconds\)"):
        ask(config(api, timeout_seconds=0.1, attempts=1))
    injected = (400, {"error": {"message": "system prompt injection"}}, {})
    with serving(habit=lambda *_: injected) as api, pytest.raises(BadInputError, match="system prompt injection"):
        ask(config(api), ROWS[:1])
