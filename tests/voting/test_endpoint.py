"""The openai backend against a real HTTP server: what it asks, and what it does when the server fails."""

from __future__ import annotations

import json
import time

import pytest

from lorapar.config import TeacherConfig, TeacherTemplate
from lorapar.errors import BadInputError, UnreachableError
from lorapar.records import Example
from lorapar.voting.endpoint_failures import retry_after_seconds
from lorapar.voting.endpoint_teacher import EndpointTeacher
from lorapar.voting.teacher import render, template_digest
from tests.voting.api_server import MODEL, serving

WORDS = {"system1": "fact", "system2": "maths"}
CHAT = TeacherTemplate(style="chat", label_words=WORDS)
PLAIN = TeacherTemplate(style="plain", label_words=WORDS)
ROWS = [Example(id=f"r{number}", question="why " * number + "?", answer="So.") for number in range(12)]
KEY = "secret-1234"


def config(api, template=CHAT, model=MODEL, **options) -> TeacherConfig:
    options = {"timeout_seconds": 5.0, "concurrency": 4, "attempts": 4, "max_wait_seconds": 1.0, **options}
    return TeacherConfig(
        name="t", backend="openai", endpoint=api.address, model=model, template=template, openai=options, weight=2.0
    )


def ask(settings, rows=ROWS, **environment):
    teacher = EndpointTeacher(settings, target="Tiny", role_play=True, environment=environment)
    try:
        return {vote.example_id: vote for vote in teacher.votes(rows)}
    finally:
        teacher.close()


def refusal(settings, **environment) -> str:
    with pytest.raises((BadInputError, UnreachableError)) as caught:
        ask(settings, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("template", [CHAT, PLAIN], ids=["chat", "plain"])
def test_every_row_is_asked_once_with_the_prompt_that_every_backend_renders(template) -> None:
    with serving(opinion=lambda text: int("why why" in text)) as api:
        votes = ask(config(api, template))
    assert set(votes) == {row.id for row in ROWS}
    bodies = api.asked("Tiny")
    assert len(bodies) == len(ROWS)
    prompts = [render(template, row, "Tiny", role_play=True) for row in ROWS]
    if template is CHAT:
        assert sorted(body["messages"][-1]["content"] for body in bodies) == sorted(
            prompt.messages[-1]["content"] for prompt in prompts
        )
    else:
        assert sorted(body["prompt"] for body in bodies) == sorted(prompt.text for prompt in prompts)
    assert {body["temperature"] for body in bodies} == {0}
    for row in ROWS:
        vote = votes[row.id]
        assert vote.label == ("system2" if "why why" in row.question else "system1")
        assert vote.raw.strip() == WORDS[vote.label]
        assert (vote.teacher, vote.weight, vote.tokens, vote.confidence) == ("t", 2.0, 11, None)
        assert vote.template == template_digest(template, "Tiny", True)


def test_vllm_is_held_by_choice_and_others_by_a_json_schema() -> None:
    with (
        serving() as vllm,
        serving(honours=("response_format",)) as ignores,
        serving(honours=("response_format",), strict=True) as refuses,
    ):
        for api in (vllm, ignores, refuses):
            votes = ask(config(api))
            assert {vote.label for vote in votes.values()} == {"system1", "system2"}
    assert vllm.asked("Tiny")[0]["structured_outputs"] == {"choice": ["fact", "maths"]}
    for api in (ignores, refuses):
        (body, *_) = api.asked("Tiny")
        schema = body["response_format"]["json_schema"]
        assert schema["strict"] is True
        assert schema["schema"]["properties"]["label"]["enum"] == ["fact", "maths"]
        assert "structured_outputs" not in body


@pytest.mark.parametrize(
    ("strict", "reason"), [(False, "ignored, it answered 'Hello! How can I help you?'"), (True, "HTTP 400 unknown")]
)
def test_an_endpoint_that_holds_no_answer_is_refused_with_what_it_did(strict, reason) -> None:
    with serving(honours=(), strict=strict) as api:
        said = refusal(config(api))
    assert said.startswith(f"teacher 't': {api.address} cannot restrict the answers of {MODEL} to the label words")
    assert f"structured_outputs: {reason}" in said or reason in said
    assert "JSON schema: " in said
    assert api.asked("Tiny") == []


def test_a_wrong_model_name_is_said_with_the_names_that_are_served() -> None:
    with serving() as api:
        said = refusal(config(api, model="other"))
    assert said.startswith(f"teacher 't': {api.address}/chat/completions: HTTP 404")
    assert "no model 'other' there; it serves served" in said
    assert len(api.bodies) == 1  # and not tried again


def test_the_key_comes_from_the_environment_and_is_shown_nowhere() -> None:
    with serving(key=KEY) as api:
        settings = config(api, api_key_env="TEACHER_KEY")
        assert len(ask(settings, TEACHER_KEY=KEY)) == len(ROWS)
        assert "TEACHER_KEY, which holds the key" in refusal(settings)
        wrong = refusal(settings, TEACHER_KEY="wrong-5678")
    assert "HTTP 401 Incorrect API key" in wrong
    assert "openai.api_key_env" in wrong
    assert "wrong-5678" not in wrong
    assert KEY not in settings.model_dump_json()


@pytest.mark.parametrize(
    "failures",
    [
        ["429"] * 3,
        ["500", "503"],
        ["truncated"] * 2,
        ["garbled"],
        ["mangled"],
        ["reset"] * 3,
        ["hang 3"],
        ["429 0", "502", "reset"],
    ],
    ids=str,
)
def test_what_passes_is_tried_again_until_it_has_passed(failures) -> None:
    with serving(failures=list(failures)) as api:
        votes = ask(config(api, timeout_seconds=1.0))
    assert len(votes) == len(ROWS)
    assert len(api.asked("Tiny")) == len(ROWS) + len(failures)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("503", "HTTP 503 busy, after 3 tries"),
        ("hang 1", "no answer within 0.2 s (openai.timeout_seconds), after 3 tries"),
        ("truncated", "the connection failed"),
        ("reset", "the connection failed"),
        ("garbled", "the answer's body is not JSON: "),
        ("mangled", "the answer's body cannot be decompressed"),
        ("shapeless", "an answer that is not in the API's format"),
        ("400", "HTTP 400 busy"),
    ],
)
def test_what_does_not_pass_names_teacher_row_place_and_reason(failure, reason) -> None:
    with serving(always=failure) as api:
        seconds = 0.2 if failure.startswith("hang") else 10.0
        said = refusal(config(api, timeout_seconds=seconds, attempts=3, max_wait_seconds=0.05))
    assert said.startswith("teacher 't': row r")
    assert api.address in said
    assert reason in said


def test_a_bug_behind_a_request_is_raised_and_not_waited_for(monkeypatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    with serving() as api:
        teacher = EndpointTeacher(config(api), target="Tiny", role_play=True)
        monkeypatch.setattr(teacher._asker, "ask", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            list(teacher.votes(ROWS))
        teacher.close()


def test_retry_after_holds_for_all_requests() -> None:
    with serving(failures=["429 0.8"], seconds=0.02) as api:
        votes = ask(config(api, concurrency=2, max_wait_seconds=2.0))
        times = [when for when, body in zip(api.times, api.bodies, strict=True) if "Tiny" in json.dumps(body)]
    assert len(votes) == len(ROWS)
    early = [when for when in times if when - times[0] < 0.75]
    assert len(early) <= 3  # the one that was told to wait, and what the other worker had begun by then


def test_a_longer_retry_after_than_allowed_ends_the_teacher_at_once() -> None:
    with serving(always="429 3600") as api:
        start = time.monotonic()
        said = refusal(config(api))
    assert time.monotonic() - start < 3
    assert "asks to wait 3600 s, longer than openai.max_wait_seconds (1) allows" in said


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_seconds("2.5", 0.0) == 2.5
    assert retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", 20.0) == 40.0
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:10 GMT", 20.0) == 0.0
    assert retry_after_seconds("soon", 0.0) is None
    assert retry_after_seconds(None, 0.0) is None


def test_as_many_requests_are_on_the_way_as_allowed_and_no_more() -> None:
    with serving(seconds=0.05) as api:
        ask(config(api, concurrency=5), ROWS * 3)
    assert api.most_at_once == 5


def test_rows_that_are_done_are_not_asked_about() -> None:
    with serving() as api:
        teacher = EndpointTeacher(config(api), target="Tiny", role_play=True)
        votes = list(teacher.votes(ROWS, {row.id for row in ROWS[:10]}))
        assert list(teacher.votes(ROWS, {row.id for row in ROWS})) == []
        teacher.close()
    assert {vote.example_id for vote in votes} == {"r10", "r11"}
    assert len(api.asked("Tiny")) == 2


def test_a_stopped_round_leaves_no_request_behind() -> None:
    with serving(seconds=0.05) as api:
        teacher = EndpointTeacher(config(api), target="Tiny", role_play=True)
        votes = teacher.votes(ROWS)
        next(votes)
        votes.close()
        time.sleep(0.3)  # what was sent before may reach the server a little later
        asked = len(api.asked("Tiny"))
        time.sleep(0.3)
        assert len(api.asked("Tiny")) == asked <= 9
        teacher.close()
