"""Capture in a real ASGI application behind the middleware: what is kept of which requests, and what never is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lorapar.capture import Capture
from lorapar.capture.records import CapturedRequest, Feedback
from lorapar.config.capture import CaptureConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.registry import Registry
from lorapar.serving import ServingSettings, metrics, server_command
from lorapar.serving.assembled import assembled, texts_of
from lorapar.serving.capturing import Capturing, in_share
from lorapar.store import open_store

from .conftest import BASE, FakeVllm, Site, started

QUESTION = "I am anna@example.org, what is 2 plus 3?"


class ChatVllm(FakeVllm):
    """A server that answers chats, whole and as events, and completions; `message` is its answer."""

    message = "Anna, it is 5. Call +49 30 1234567!"
    heard: list[dict[str, str]]

    def routes(self) -> list[Route]:
        self.heard = []
        return [*super().routes(), Route("/v1/chat/completions", self.chat, methods=["POST"])]

    async def chat(self, request: Request) -> Response:
        if self.refuses(request):
            return Response(status_code=401)
        self.heard.append(dict(request.headers))
        body = await request.json()
        if body.get("broken"):
            return JSONResponse({"error": {"message": "too long"}}, 400)
        if body.get("stream"):
            return StreamingResponse(self.events(body), media_type="text/event-stream")
        message = {"role": "assistant", "content": self.message, "tool_calls": body.get("called", [])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        # vLLM writes this header itself with --enable-request-id-headers.
        return JSONResponse({"choices": [choice]}, headers={"x-request-id": "of-the-server"})

    async def events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        deltas = [{"role": "assistant", "content": ""}, *({"content": one} for one in self.message), {}]
        choices = [{"index": 0, "delta": one, "finish_reason": None if one else "stop"} for one in deltas]
        if ended := body.get("ended"):
            choices[-1]["finish_reason"] = ended if ended != "none" else None
        events = [{"choices": [one]} for one in choices]
        if body.get("engine_error"):  # as vLLM sends it, with status 200
            events[-1:] = [{"error": {"message": "EngineCore died", "code": 500}}]
        text = "".join(f"data: {json.dumps(one, ensure_ascii=False)}\n\n" for one in events)
        data = text.encode() + b"data: [DONE]\n\n"
        for start in range(0, len(data), 7):  # parts that break events and letters in two
            yield data[start : start + 7]
        if body.get("breaks_off"):
            raise RuntimeError("the engine died")


Scenario = Callable[[Site], Coroutine[Any, Any, None]]


@pytest.fixture
def vllm() -> ChatVllm:
    return ChatVllm()


def kept_after(
    scenario: Scenario, vllm: FakeVllm, settings: ServingSettings, **capture: Any
) -> tuple[list[CapturedRequest], list[Feedback]]:
    """What is in the store once the server has ended; all is captured unless `capture` says otherwise."""
    given = json.dumps({"name": "support", "share": 1.0, **capture})

    async def all_of_it() -> None:
        vllm.released = asyncio.Event()
        async with started(vllm, settings.model_copy(update={"capture": given})) as site:
            await scenario(site)

    asyncio.run(all_of_it())
    found = Capture(open_store(capture.get("address") or settings.registry), "support")
    parts = found.parts()
    return found.requests(parts), found.feedback(parts)


def counted(outcome: str) -> float:
    """How often that has happened to the capture, as in /metrics."""
    return metrics.CAPTURED.labels("support", outcome)._value.get()


async def chat(
    site: Site, headers: dict[str, str] | list[tuple[str, str]] | None = None, model: str = "task", **fields: Any
) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **fields}
    return await site.client.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_request_and_answer_are_kept_redacted(stream: bool, vllm: ChatVllm, settings: ServingSettings) -> None:
    vllm.message = "Grüße, Anna: 5\u2028Call +49 30 1234567!"
    ids = []

    async def scenario(site: Site) -> None:
        answer = await chat(site, {"authorization": "Bearer user-key-123456", "user-agent": "me"}, stream=stream)
        ids.append(answer.headers["x-request-id"])
        assert answer.headers["x-lorapar-adapter"] == "task@1"

    rows, _ = kept_after(scenario, vllm, settings)
    assert len(rows) == 1
    row = rows[0]
    assert row.request_id == ids[0]
    assert (row.adapter, row.version, row.alias, row.endpoint) == ("task", 1, "production", "chat")
    assert [one.content for one in row.messages] == ["I am [EMAIL], what is 2 plus 3?"]
    assert row.answer == "Grüße, Anna: 5\u2028Call [PHONE]!"
    assert (row.finish_reason, row.redacted, row.redacted_by) == ("stop", 2, {"email": 1, "phone": 1})
    stored = row.model_dump_json()
    for never in ("user-key", "authorization", "user-agent", "127.0.0.1", "anna@"):
        assert never not in stored


def test_completions_are_kept_too(vllm: ChatVllm, settings: ServingSettings) -> None:
    vllm.texts = {"task@1": "it is 5"}

    async def scenario(site: Site) -> None:
        await site.ask("task", prompt="2 plus 3 is")

    rows, _ = kept_after(scenario, vllm, settings)
    assert [(row.endpoint, row.messages[0].content, row.answer) for row in rows] == [
        ("completion", "2 plus 3 is", "it is 5")
    ]


def test_id_of_the_client_is_taken_handed_on_and_returned_once(vllm: ChatVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        answer = await chat(site, {"x-request-id": "gateway-0123456789"})
        assert answer.headers.get_list("x-request-id") == ["gateway-0123456789"]
        assert vllm.heard[-1]["x-request-id"] == "gateway-0123456789"
        other = await chat(site, {"x-request-id": "anna@example.org"})
        assert other.headers["x-request-id"] != "anna@example.org"
        assert vllm.heard[-1]["x-request-id"] == other.headers["x-request-id"]

    rows, _ = kept_after(scenario, vllm, settings)
    assert len(rows) == 2


def test_share_is_decided_by_the_request_s_id(vllm: ChatVllm, settings: ServingSettings) -> None:
    names = [f"request-{number:04d}" for number in range(60)]

    async def scenario(site: Site) -> None:
        for name in names:
            await chat(site, {"x-request-id": name})

    rows, _ = kept_after(scenario, vllm, settings, share=0.3)
    assert {row.request_id for row in rows} == {name for name in names if in_share(name, 0.3)}
    assert 0 < len(rows) < len(names)
    assert all(in_share(name, 0.6) for name in names if in_share(name, 0.3))


@pytest.mark.parametrize(
    ("consent", "message", "kept"),
    [
        *[
            ("opt_out", None, True),
            ("opt_out", "yes", True),
            ("opt_out", "no", False),
            ("opt_out", "please not", False),
        ],
        *[("opt_in", None, False), ("opt_in", "yes", True), ("opt_in", "no", False)],
        # Sent twice, or joined by a proxy: one no is a no.
        *[("opt_out", ["yes", "no"], False), ("opt_in", ["yes", "YES"], True), ("opt_in", "yes, no", False)],
    ],
)
def test_header_decides_where_a_client_has_an_opinion_of_requests_and_of_feedback(
    consent: str, message: str | list[str] | None, kept: bool, vllm: ChatVllm, settings: ServingSettings
) -> None:
    values = [message] if isinstance(message, str) else message or []
    headers = [("x-lorapar-capture", value) for value in values]

    async def scenario(site: Site) -> None:
        remark = {"request_id": "request-0001", "good": False, "answer": "I am Anna, and it is 5."}
        assert (await site.client.post("/v1/feedback", json=remark, headers=headers)).status_code == 202
        await chat(site, headers)

    before = counted("not_consented")
    rows, remarks = kept_after(scenario, vllm, settings, consent=consent)
    assert (bool(rows), bool(remarks)) == (kept, kept)
    assert counted("not_consented") - before == (0 if kept else 2)


def test_what_is_no_text_or_has_no_whole_answer_is_not_kept(vllm: ChatVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        picture = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
        await chat(site, messages=[{"role": "user", "content": picture}])
        await chat(site, called=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}])
        await chat(site, broken=True)
        await chat(site, stream=True, breaks_off=True)
        await chat(site, model=BASE)  # of no adapter

    site_settings = settings.model_copy(update={"startup_seconds": 5.0})
    rows, _ = kept_after(scenario, vllm, site_settings)
    assert rows == []


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"engine_error": True}, "not_text"),
        *[({"ended": ended}, "no_answer") for ended in ("abort", "error", "none", "repetition")],
        *[({"ended": ended}, "kept") for ended in ("stop", "length")],
    ],
)
def test_stream_that_breaks_off_with_a_good_status_is_not_kept(
    fields: dict[str, Any], outcome: str, vllm: ChatVllm, settings: ServingSettings
) -> None:
    async def scenario(site: Site) -> None:
        answer = await chat(site, stream=True, **fields)
        assert answer.text.endswith("data: [DONE]\n\n")

    before = counted(outcome)
    rows, _ = kept_after(scenario, vllm, settings)
    assert [row.finish_reason for row in rows] == ([fields["ended"]] if outcome == "kept" else [])
    assert counted(outcome) - before == 1


def test_caller_without_the_key_is_not_kept(vllm: ChatVllm, settings: ServingSettings) -> None:
    vllm.key = "right"

    async def scenario(site: Site) -> None:
        assert (await chat(site, {"authorization": "Bearer wrong"})).status_code == 401
        remark = {"request_id": "request-0001", "good": True}
        assert (await site.client.post("/v1/feedback", json=remark)).status_code != 202
        await chat(site, {"authorization": "Bearer right", "x-request-id": "request-0002"})

    rows, message = kept_after(scenario, vllm, settings)
    assert ([row.request_id for row in rows], message) == (["request-0002"], [])


@pytest.mark.parametrize(("adapters", "kept"), [(["task"], 3), (["task@candidate"], 1), (["task@production"], 1)])
def test_only_the_adapters_and_aliases_that_are_named(
    adapters: list[str], kept: int, vllm: ChatVllm, settings: ServingSettings
) -> None:
    both = settings.model_copy(update={"adapters": "task,task@candidate"})

    async def scenario(site: Site) -> None:
        for model in ("task", "task@candidate", "task@1"):
            await chat(site, model=model)

    rows, _ = kept_after(scenario, vllm, both, adapters=adapters)
    assert len(rows) == kept


def test_user_is_kept_only_where_asked(vllm: ChatVllm, settings: ServingSettings, tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        await chat(site, user="anna@example.org/7")

    rows, _ = kept_after(scenario, vllm, settings)
    assert rows[0].user is None
    rows, _ = kept_after(scenario, vllm, settings, keep_user=True, address=str(tmp_path / "apart"))
    assert [row.user for row in rows] == ["[EMAIL]/7"]


def test_feedback_is_kept_by_the_request_s_id(vllm: ChatVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        asked = (await chat(site)).headers["x-request-id"]
        better = {"request_id": asked, "good": False, "answer": " 5, write to bob@example.org "}
        assert (await site.client.post("/v1/feedback", json=better)).status_code == 202
        for wrong in ({}, {"request_id": "a b"}, {"request_id": asked}, {"request_id": asked, "good": "yes"}):
            answer = await site.client.post("/v1/feedback", json=wrong)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].startswith(("request_id: ", "good: "))

    rows, feedback = kept_after(scenario, vllm, settings)
    assert [(one.request_id, one.good, one.answer) for one in feedback] == [
        (rows[0].request_id, False, "5, write to [EMAIL]")
    ]


def test_every_message_and_part_is_redacted_also_what_a_tool_said(vllm: ChatVllm, settings: ServingSettings) -> None:
    parts = [{"type": "text", "text": "my card is 4111111111111111"}, {"type": "text", "text": "12 is my favourite"}]
    messages = [
        {"role": "system", "content": "You help carl@example.org."},
        {"role": "user", "content": parts, "name": "Anna Berg"},
        {"role": "tool", "content": '{"mail": "bob@example.org", "пароль": "geheim12"}', "tool_call_id": "call-4711"},
    ]

    async def scenario(site: Site) -> None:
        tools = [{"type": "function", "function": {"name": "f", "description": "of dora@example.org"}}]
        assert (await chat(site, messages=messages, tools=tools)).status_code == 200

    (row,) = kept_after(scenario, vllm, settings)[0]
    assert [one.content for one in row.messages] == [
        "You help [EMAIL].",
        "my card is [CARD]\n12 is my favourite",
        '{"mail": "[EMAIL]", "пароль": "[SECRET]"}',
    ]
    stored = row.model_dump_json()
    assert not any(never in stored for never in ("Anna Berg", "call-4711", "dora@"))


@pytest.mark.parametrize("name", ["x-lorapar-capture", "X-LoRAPAR-Capture", "X-LORAPAR-CAPTURE"])
@pytest.mark.parametrize("value", ["no", "NO", " No ", "nein"])
def test_opting_out_works_in_any_case_of_letters(
    name: str, value: str, vllm: ChatVllm, settings: ServingSettings
) -> None:
    async def scenario(site: Site) -> None:
        await chat(site, {name: value})

    assert kept_after(scenario, vllm, settings)[0] == []


def test_half_a_surrogate_pair_is_kept_as_a_question_mark(vllm: ChatVllm, settings: ServingSettings) -> None:
    vllm.message = "it is 5"

    async def scenario(site: Site) -> None:
        headers = {"content-type": "application/json", "x-request-id": "request-0001"}
        half = rb'{"model": "task", "user": "\udfff", "messages": [{"role": "user", "content": "a \ud800"}]}'
        assert (await site.client.post("/v1/chat/completions", content=half, headers=headers)).status_code == 200
        half = rb'{"request_id": "request-0001", "answer": "b \ud800"}'
        assert (await site.client.post("/v1/feedback", content=half, headers=headers)).status_code == 202
        await chat(site, {"x-request-id": "request-0002"})

    rows, feedback = kept_after(scenario, vllm, settings, keep_user=True)
    assert (rows[0].messages[0].content, rows[0].user) == ("a ?", "?")
    assert [row.request_id for row in rows] == ["request-0001", "request-0002"]
    assert [one.answer for one in feedback] == ["b ?"]


def test_without_capture_nothing_is_added_and_nothing_kept(vllm: ChatVllm, settings: ServingSettings) -> None:
    async def all_of_it() -> None:
        async with started(vllm, settings) as site:
            answer = await chat(site)
            assert answer.headers["x-request-id"] == "of-the-server"
            assert (
                await site.client.post("/v1/feedback", json={"request_id": "x" * 9, "good": True})
            ).status_code == 404

    asyncio.run(all_of_it())
    assert not Path(settings.registry, "capture").exists()


def test_store_that_does_not_answer_is_not_felt_by_requests(
    vllm: ChatVllm, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnreachableError("no such bucket")

    monkeypatch.setattr("lorapar.capture.parts.Capture.write", refuse)
    monkeypatch.setattr("lorapar.capture.parts.Capture.prune", refuse)

    async def scenario(site: Site) -> None:
        for _ in range(3):
            assert (await chat(site, stream=True)).status_code == 200

    assert kept_after(scenario, vllm, settings) == ([], [])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("{name: support, shar: 0.1}", r"LORAPAR_SERVING_CAPTURE: shar: no such key \(did you mean 'share'\?\)"),
        ("{name: support, share: 2}", r"LORAPAR_SERVING_CAPTURE: share: must lie in \(0, 1\]"),
        ("{name: support, rules: {mine: '('}}", r"serving\.capture\.rules\.mine: '\(' is not a regular expression"),
        ("{name: support, rules: {email: 'x'}}", "'email' is the name of a built-in rule"),
        ("{name: support, adapters: [tusk]}", "tusk is not served here.*there is task"),
        (
            "{name: support, adapters: [task@prodution]}",
            r"task@prodution is not .* \(did you mean 'task@production'\?\)",
        ),
        (
            "{name: support, adapters: [task@staging]}",
            "task@staging is not served.* there is task@candidate, task@prod",
        ),
        ("missing.yaml", "there is no file missing.yaml"),
        ("{share: 0.5}", "name: is missing"),
    ],
)
def test_wrong_settings_end_the_server_before_it_starts(given: str, complaint: str, settings: ServingSettings) -> None:
    with pytest.raises(BadInputError, match=complaint):
        Capturing.of(settings.model_copy(update={"capture": given}))


def test_settings_may_lie_in_a_file(settings: ServingSettings, tmp_path: Path) -> None:
    file = tmp_path / "capture.yaml"
    file.write_text("name: support\nrules:\n  case: C-\\d{4}\n", encoding="utf-8")
    found = Capturing.of(settings.model_copy(update={"capture": str(file)}))
    assert found is not None
    assert found.config == CaptureConfig(name="support", rules={"case": r"C-\d{4}"})


def test_every_line_of_an_answer_in_events_is_read() -> None:
    event = 'data: {"choices": [{"delta": {"content": "a\u2028b"}}]}'
    body = f'{event}\r\n\r\ndata: {{"choices": []}}\n\ndata: [DONE]\n'.encode()
    found = assembled(body)
    assert found is not None
    assert found.text == "a\u2028b"
    assert assembled(b'{"error": {}}') is None


def test_texts_of_a_request() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert texts_of({"messages": [{"role": "user", "content": parts}]}, "chat") == [("user", "a\nb")]
    for role in ("system", "developer", "assistant", "tool"):
        assert texts_of({"messages": [{"role": role, "content": "a"}]}, "chat") == [(role, "a")]
    pictured = [{"type": "image_url", "image_url": {"url": "data:,x"}, "text": "what is it?"}]
    called = {"role": "assistant", "content": "one moment", "tool_calls": [{"function": {"arguments": "{}"}}]}
    for wrong_message in ({"role": "user", "content": pictured}, called, {"role": "assistant", "content": None}):
        assert texts_of({"messages": [{"role": "user", "content": "a"}, wrong_message]}, "chat") is None
    named = [{"role": "anna@example.org", "content": "a"}, {"role": "user", "content": "b"}]  # a role is not redacted
    for wrong in ({}, *({"messages": one} for one in ([], [{"role": "user"}], ["x"], named))):
        assert texts_of(wrong, "chat") is None
    assert texts_of({"prompt": [1, 2]}, "completion") is None


def test_printed_command_says_what_is_kept_and_refuses_what_is_wrong(registry: Registry) -> None:
    command = server_command(registry, ["task"], capture="{name: support, share: 0.25}", model=None, other_base=True)
    assert command.environment["LORAPAR_SERVING_CAPTURE"] == '{"name":"support","share":0.25}'
    with pytest.raises(BadInputError, match=r"serving\.capture\.rules\.mine"):
        server_command(registry, ["task"], capture="{name: support, rules: {mine: '('}}", other_base=True)


def test_page_names_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flywheel.md").read_text(encoding="utf-8")
    for name in CaptureConfig.model_fields:
        words = name.split("_")
        in_chart = words[0] + "".join(word.capitalize() for word in words[1:])
        assert f"| `{name}` | `{in_chart}` |" in page
