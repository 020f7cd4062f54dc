"""How an answer ended, as a canary's guard is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from lorapar.serving.answering import Answering
from lorapar.serving.routes import Served

START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST = {"type": "http.response.body", "body": b""}
LEFT = {"type": "http.disconnect"}


def play(served: Served, *messages: dict[str, Any]) -> tuple[Answering, list[dict[str, Any]]]:
    """Let messages go by: from the client where they are disconnects, else from the server."""
    sent: list[dict[str, Any]] = []

    async def scenario() -> Answering:
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            sent.append(message)

        answering = Answering(served, inbox.get, send)
        for message in messages:
            if message["type"] == "http.disconnect":
                await inbox.put(message)
                await answering.receive()
            else:
                await answering.send(message)
        return answering

    return asyncio.run(scenario()), sent


@pytest.mark.parametrize(
    ("messages", "failed"),
    [
        ((START, PART, LAST), False),
        ((START, PART, LAST, LEFT), False),  # servers say so after every answer
        ((START, PART), True),  # broke off
        ((), True),  # the application raised
        (({**START, "status": 503}, LAST), True),
        (({**START, "status": 400}, LAST), False),  # the client's fault
    ],
)
def test_failure_is_the_servers_fault(messages: tuple[dict[str, Any], ...], failed: bool) -> None:
    outcome = play(Served("task", 1, "production"), *messages)[0].finish()
    assert outcome is not None
    assert outcome.failed is failed


@pytest.mark.parametrize("messages", [(LEFT,), (START, PART, LEFT)])
def test_client_that_leaves_says_nothing_about_the_version(messages: tuple[dict[str, Any], ...]) -> None:
    assert play(Served("task", 1, "production"), *messages)[0].finish() is None


def test_only_the_first_message_gets_a_header_and_bytes_pass_untouched() -> None:
    _, sent = play(Served("task", 3), START, PART, LAST)
    assert sent == [{**START, "headers": [(b"x-lorapar-adapter", b"task@3")]}, PART, LAST]


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("lorapar_serving_requests_total", {"adapter": "counted", **labels}) or 0.0


def test_requests_are_counted_by_version_but_not_by_versions_that_clients_make_up() -> None:
    play(Served("counted", 2, "production"), START, LAST)[0].finish()
    play(Served("counted", 999), {**START, "status": 404}, LAST)[0].finish()
    play(Served("counted", 2, "production"), LEFT)[0].finish()
    assert counted(version="2", alias="production", status="200") == 1.0
    assert counted(version="", alias="", status="404") == 1.0
    assert counted(version="999", alias="", status="404") == 0.0
    assert counted(version="2", alias="production", status="499") == 1.0
