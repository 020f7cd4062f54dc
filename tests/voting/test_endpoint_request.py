"""Endpoints with habits of their own: what is found out about them, what is remembered, and what is said."""

from __future__ import annotations

import json
import time

import pytest

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.voting.endpoint_failures import Failure
from lorapar.voting.endpoint_request import cause_of
from lorapar.voting.endpoint_teacher import EndpointTeacher
from tests.voting.api_server import MODEL, serving
from tests.voting.asking import ROWS, TEMPLATE, ask, refusal, rows_of

JSON_ONLY = ("response_format",)


def refusing(**reasons):
    """A habit: each of these fields is refused with its reason, and `structured_outputs` with none of its own."""

    def habit(api, path, headers, body):
        for name, reason in reasons.items():
            if name in body:
                return 400, {"error": {"message": reason, "param": None}}, {}
        return None

    return habit


NEW_NAME = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
OWN_TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model."


def test_a_model_that_refuses_parameters_is_asked_without_them_and_it_is_reported_once() -> None:
    lines = []
    habit = refusing(
        structured_outputs="Unrecognized request argument supplied: structured_outputs",
        max_tokens=NEW_NAME,
        temperature=OWN_TEMPERATURE,
    )
    with serving(habit=habit, honours=JSON_ONLY) as api:
        assert len(ask(api, lines)) == len(ROWS)
    assert len(rows_of(api)) == len(ROWS)  # the probe found it all out
    for body in rows_of(api):
        assert "max_completion_tokens" in body
        assert not {"max_tokens", "temperature", "structured_outputs"} & set(body)
    assert len(lines) == 2
    assert "is asked with max_completion_tokens: it refuses max_tokens" in lines[0]
    assert "is asked without temperature" in lines[1]
    assert "votes may differ between runs" in lines[1]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("Temperature is not supported here", "temperature"),
        ('Unknown name "maxTokens"', "max_tokens"),
        ("Max tokens is gone, use max completion tokens", "max_tokens"),
        ("thinking takes neither temperature nor max_tokens", "temperature"),
        ("not a word about a field", None),
    ],
)
def test_a_refused_field_is_known_however_it_is_spelt(words, field) -> None:
    body = {"model": "m", "messages": [], "max_tokens": 42, "temperature": 0}
    assert cause_of(Failure(400, words), body) == field
    assert cause_of(Failure(429, words), body) is None


def test_a_model_that_knows_no_limit_by_any_name_is_asked_without_one() -> None:
    lines = []
    habit = refusing(max_tokens="extra inputs: max_tokens", max_completion_tokens="extra inputs: max_completion_tokens")
    with serving(habit=habit) as api:
        assert len(ask(api, lines)) == len(ROWS)
    assert not any("tokens" in body for body in rows_of(api))
    assert "without a limit to its answers" in lines[-1]


def test_refusals_without_a_reason_are_met_by_trying() -> None:
    def habit(api, path, headers, body):
        wrong = "temperature" in body or "max_tokens" in body or "structured_outputs" in body
        return (400, {"error": {"message": "Bad Request"}}, {}) if wrong else None

    lines = []
    with serving(habit=habit, honours=JSON_ONLY) as api:
        assert len(ask(api, lines)) == len(ROWS)
    assert lines == [
        f"teacher 't': {api.address} is asked with max_completion_tokens and without temperature, so votes may "
        "differ between runs: it refuses other requests without a reason"
    ]


def test_refusals_of_all_that_is_tried_end_in_the_endpoints_own_words() -> None:
    with serving(habit=lambda *_: (400, {"error": {"message": "Bad Request"}}, {})) as api:
        assert "HTTP 400 Bad Request; fix model, endpoint or openai.extra_body" in refusal(api)


def test_a_parameter_that_is_refused_in_the_middle_of_a_round_costs_no_vote() -> None:
    def habit(api, path, headers, body):
        late = "Tiny" in json.dumps(body) and len(rows_of(api)) > 3 and "temperature" in body
        return (400, {"error": {"message": OWN_TEMPERATURE, "param": "temperature"}}, {}) if late else None

    lines = []
    with serving(habit=habit) as api:
        assert len(ask(api, lines)) == len(ROWS)
    assert len(lines) == 1


def thinking(needed, **message):
    """A habit: below so many tokens the answer is cut off while the model thinks."""

    def habit(api, path, headers, body):
        budget = body.get("max_tokens", needed)
        text = api.reply(body) if budget >= needed else None
        fields = {"content": text, "reasoning_content": "Let me see.", **(message if text is None else {})}
        choice = {"message": fields, "finish_reason": "stop" if text else "length"}
        usage = {"total_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}
        return 200, {"choices": [choice], "usage": usage}, {}

    return habit


@pytest.mark.parametrize("needed", [300, 2000])
def test_a_model_that_thinks_first_gets_room_to(needed) -> None:
    lines = []
    with serving(habit=thinking(needed), honours=JSON_ONLY) as api:
        votes = ask(api, lines)
    assert {(vote.tokens, vote.thinking_tokens) for vote in votes.values()} == {(5, 3)}
    assert len(rows_of(api)) == len(votes) == len(ROWS)
    assert all(body["max_tokens"] >= needed for body in rows_of(api))
    assert "cut an answer off" in lines[-1]
    assert "openai.max_tokens" in lines[-1]


def test_a_thinking_model_that_honours_choices_is_not_read_by_its_first_token() -> None:
    with serving(habit=thinking(100), honours=("structured_outputs",)) as api:
        assert len(ask(api)) == len(ROWS)
    assert "structured_outputs" in rows_of(api)[0]


def test_room_that_is_set_is_used_as_it_is_and_its_end_is_reported() -> None:
    with serving(habit=thinking(900), honours=JSON_ONLY) as api:
        assert len(ask(api, max_tokens=1000)) == len(ROWS)
        assert {body["max_tokens"] for body in api.bodies} == {1000}
        cut = refusal(api, max_tokens=700)
    assert "the answer was cut off at 700 tokens while the model was still thinking" in cut
    assert "openai.max_tokens gives it more" in cut
    assert "openai.extra_body may make it think less" in cut


def test_thoughts_without_an_end_are_reported_as_such() -> None:
    with serving(habit=thinking(10**6), honours=JSON_ONLY) as api:
        assert "while the model was still thinking" in refusal(api)


def test_a_limit_among_what_is_added_is_the_only_one() -> None:
    with serving(habit=thinking(900), honours=JSON_ONLY) as api:
        assert len(ask(api, extra_body={"max_completion_tokens": 4000})) == len(ROWS)
    assert all("max_tokens" not in body and body["max_completion_tokens"] == 4000 for body in api.bodies)


def test_a_limit_that_is_refused_as_too_small_is_raised() -> None:
    def habit(api, path, headers, body):
        small = body.get("max_tokens", 999) < 100
        return (
            (400, {"error": {"message": "max_tokens must be at least 100", "param": "max_tokens"}}, {})
            if small
            else None
        )

    with serving(habit=habit) as api:
        assert len(ask(api)) == len(ROWS)
    assert all(body["max_tokens"] > 512 for body in rows_of(api) if "structured_outputs" in body)


def test_json_that_a_model_failed_to_write_is_asked_for_again() -> None:
    value = {"error": {"message": "Please adjust your prompt.", "code": "json_validate_failed"}}
    with serving(habit=at_first(400, value), honours=JSON_ONLY) as api:
        assert len(ask(api)) == len(ROWS)
    with serving(habit=every(1, 400, value), honours=JSON_ONLY) as api:
        assert "HTTP 400 Please adjust your prompt." in refusal(api)


def test_what_is_added_to_bodies_is_sent_and_null_takes_a_field_out() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": None}
    with serving() as api:
        ask(api, extra_body=extra)
    for body in api.bodies:
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert "temperature" not in body


def test_a_field_of_extra_body_that_is_refused_is_named_as_the_settings_call_it() -> None:
    with serving(habit=refusing(reasoning_effort="Unknown parameter: 'reasoning_effort'.")) as api:
        assert "leave reasoning_effort out of openai.extra_body" in refusal(api, extra_body={"reasoning_effort": "low"})


def test_a_schema_without_what_only_some_know_is_tried_next() -> None:
    def habit(api, path, headers, body):
        unknown = "strict" in json.dumps(body) or "structured_outputs" in body
        return (400, {"error": {"message": "Unknown name 'strict' at 'response_format'"}}, {}) if unknown else None

    with serving(habit=habit, honours=JSON_ONLY) as api:
        assert len(ask(api)) == len(ROWS)
    schema = rows_of(api)[0]["response_format"]["json_schema"]
    assert "strict" not in schema
    assert schema["schema"]["properties"]["label"]["enum"] == ["fact", "maths"]


def obedient(refused):
    """A habit: no restriction is honoured, but what a prompt asks for is done; `refused` response formats are not."""

    def habit(api, path, headers, body):
        form = body.get("response_format", {}).get("type")
        if form in refused:
            return 400, {"error": {"message": f"This response_format type {form} is unavailable"}}, {}
        prompt = body["messages"][-1]["content"]
        asked = [part for part in prompt.split("\n\n")[-1].split("{") if part.startswith('"label"')]
        text = "{" + asked[api.opinion(prompt)].partition("}")[0] + "}" if asked else "Hello!"
        return 200, {"choices": [{"message": {"content": f"```json\n{text}\n```"}}]}, {}

    return habit


@pytest.mark.parametrize(
    ("refused", "form"), [(("json_schema",), {"type": "json_object"}), (("json_schema", "json_object"), None)]
)
def test_where_no_schema_is_known_the_prompt_asks_for_the_json(refused, form) -> None:
    lines = []
    with serving(habit=obedient(refused)) as api:
        votes = ask(api, lines)
    assert {vote.label for vote in votes.values()} == {"system1", "system2"}
    for body in rows_of(api):
        assert body.get("response_format") == form
        assert body["messages"][-1]["content"].endswith('{"label": "fact"} or {"label": "maths"}')
    assert "takes no JSON schema, so each prompt asks for its JSON in words" in lines[0]


def at_first(status, value):
    """A habit: the first request about each row is answered like this."""
    seen = set()

    def habit(api, path, _, body):
        text = json.dumps(body.get("messages"))
        if "Tiny" not in text or "completions" not in path or text in seen:
            return None
        seen.add(text)
        return status, value, {}

    return habit


def every(number, status, value, headers=None):
    """A habit: each so-many-th request about a row is answered like this."""
    asked = []

    def habit(api, path, _, body):
        if "Tiny" not in json.dumps(body) or "completions" not in path:
            return None
        asked.append(body)
        return (status, value, headers or {}) if len(asked) % number == 0 else None

    return habit


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (200, {"error": {"message": "upstream rate limit", "code": 429}}),
        (200, {"choices": [{"error": {"code": 502, "message": "Provider error"}, "message": {"content": ""}}]}),
        (200, {"choices": None}),
        (200, {"choices": []}),
        (200, "<!DOCTYPE html><title>One moment</title>"),
        (200, ""),
        (200, {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
        (200, {"choices": [{"message": None}]}),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        (524, "<html>A timeout occurred</html>"),
        (400, {"error": {"message": "wrapped", "code": 429}}),
    ],
    ids=str,
)
def test_what_passes_is_asked_again_in_whatever_form_it_comes(status, value) -> None:
    with serving(habit=at_first(status, value)) as api:
        assert len(ask(api)) == len(ROWS)
    assert len(rows_of(api)) == 2 * len(ROWS)


def in_a_stream(text, thought=""):
    """The answer as a server streams it, one letter a chunk, with a comment, a usage chunk and the end."""
    deltas = [{"reasoning_content": part} for part in thought] + [{"content": part} for part in text]
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"total_tokens": 7}}]
    return ": ping\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def test_a_model_that_only_streams_is_asked_for_streams_and_one_that_streams_unasked_is_read() -> None:
    def only_streams(api, path, _, body):
        if "completions" not in path:
            return None
        if not body.get("stream"):
            return 400, {"error": {"message": "This model only supports stream mode, please enable stream."}}, {}
        return 200, in_a_stream(api.reply(body), "hm {x}"), {"Content-Type": "text/event-stream"}

    lines = []
    with serving(habit=only_streams) as api:
        votes = ask(api, lines)
    assert len(votes) == len(ROWS)
    assert {vote.tokens for vote in votes.values()} == {7}
    assert sum("is asked for streams: it gives no whole answers" in line for line in lines) == 1

    def unasked(api, path, _, body):
        return (200, in_a_stream(api.reply(body)), {}) if "completions" in path else None

    with serving(habit=unasked) as api:
        assert len(ask(api)) == len(ROWS)

    cut = []

    def cut_once(api, path, _, body):
        if "completions" not in path:
            return None
        whole = in_a_stream(api.reply(body))
        if body in cut:
            return 200, whole.replace("data: [DONE]\n\n", ""), {}
        cut.append(body)
        return 200, whole[: whole.rindex('data: {"choices": [{"delta": {}') + len(cut) % 9], {}

    with serving(habit=cut_once) as api:
        assert len(ask(api)) == len(ROWS)
    assert len(cut) >= len(ROWS)

    def broken(*_):
        return (200, 'data: {"error": {"message": "overloaded", "code": 503}}\n\n', {})

    with serving(habit=broken) as api:
        assert "HTTP 200 (503 inside) overloaded" in refusal(api)


@pytest.mark.parametrize(
    "shape",
    [
        lambda whole, text: {"code": 0, "data": whole},
        lambda whole, text: {"success": True, "result": whole, "errors": []},
        lambda whole, text: [whole],
        lambda whole, text: {**whole, "error": {}},
        lambda whole, text: {**whole, "error": None, "message": "ok"},
        lambda whole, text: {"choices": [{"delta": {"content": text}}]},
        lambda whole, text: {"choices": [{"message": text}]},
        lambda whole, text: {
            "choices": [{"message": {"content": None, "tool_calls": [{"function": {"arguments": text}}]}}]
        },
    ],
)
def test_an_answer_is_found_in_what_gateways_put_around_it(shape) -> None:
    def habit(api, path, _, body):
        text = api.reply(body)
        whole = {"choices": [{"message": {"content": text}}]}
        return (200, shape(whole, text), {}) if "completions" in path else None

    with serving(habit=habit) as api:
        assert all(vote.label for vote in ask(api).values())


@pytest.mark.parametrize(
    ("status", "value", "words"),
    [
        (200, {"error": {"message": "Upstream is down", "code": 503}}, "HTTP 200 (503 inside) Upstream is down"),
        (200, {"error": {"message": "no such row", "code": 400}}, "HTTP 200 (400 inside) no such row"),
        (200, "<html><title>Sign in</title></html>", "the answer's body is not JSON but an HTML page ('Sign in')"),
        (402, {"error": {"message": "Insufficient Balance"}}, "no credit or quota left"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "no credit or quota left"),
        (401, {"error": {"message": "expired"}}, "openai.api_key_env"),
        (403, {"error": {"message": "not your model"}}, "may not do this"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_reported_in_the_endpoints_own_words(status, value, words) -> None:
    with serving(habit=every(1, status, value)) as api:
        message = refusal(api)
    assert message.startswith("teacher 't': row r")
    assert words in message


@pytest.mark.parametrize(
    ("status", "value", "words"),
    [
        (
            400,
            {"error": {"message": "This model's maximum context length is 512 tokens"}},
            "the row is too long for the model",
        ),
        (413, "Payload Too Large", "the row is too long for the model"),
        (400, {"error": {"message": "filtered", "code": 400, "type": "content_filter"}}, "leave the row out"),
        (200, {"error": {"message": "flagged", "code": 400}}, "leave the row out"),
        (200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}, "leave the row out"),
        (200, {"choices": [{"message": {"content": None, "refusal": "I cannot."}}]}, "(I cannot.); leave the row out"),
        (200, {"choices": [{"message": {"content": ""}}]}, "gave an empty answer"),
        (200, {"choices": [{"message": {"content": "Both."}}]}, "answered 'Both.', which is none of the label words"),
    ],
    ids=str,
)
def test_a_row_that_is_not_answered_is_an_abstention_with_its_reason_and_the_others_are_asked(
    status, value, words
) -> None:
    def habit(api, path, headers, body):
        return (status, value, {}) if "Question: why why why ?" in json.dumps(body) else None

    with serving(habit=habit) as api:
        votes = ask(api)
    assert {row for row, vote in votes.items() if vote.label is None} == {"r3"}
    assert len(votes) == len(ROWS)
    assert votes["r3"].raw.startswith("teacher 't': row r3: ")
    assert words in votes["r3"].raw


def test_a_busy_endpoint_that_still_answers_others_is_not_given_up() -> None:
    with serving(habit=every(2, 429, {"error": {"message": "busy"}}), seconds=0.01) as api:
        assert len(ask(api, rows=[*ROWS, *(row.model_copy(update={"id": f"x{row.id}"}) for row in ROWS)])) == 16


def test_answers_on_the_way_are_kept_when_another_fails() -> None:
    def habit(api, path, headers, body):
        if "Question: why why why ?" in json.dumps(body):
            return 400, {"error": {"message": "no"}}, {}
        if "Tiny" in json.dumps(body) and "completions" in path:
            time.sleep(0.3)
        return None

    votes = []
    with serving(habit=habit) as api:
        settings = TeacherConfig(
            name="t",
            backend="openai",
            endpoint=api.address,
            model=MODEL,
            template=TEMPLATE,
            openai={"concurrency": 6, "timeout_seconds": 5.0},
        )
        teacher = EndpointTeacher(settings, target="Tiny", role_play=True)
        try:
            with pytest.raises(BadInputError, match=r"row r3: .*HTTP 400 no"):
                votes.extend(teacher.votes(ROWS))
        finally:
            teacher.close()
    assert {vote.example_id for vote in votes} == {"r0", "r1", "r2", "r4", "r5"}  # and no row was begun any more
