"""Look-ups of names by the loop that asks endpoints."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from lorapar.voting.endpoint_loop import EndpointLoop


@pytest.fixture
def loop():
    made = EndpointLoop()
    yield made
    made.close()


def test_all_who_ask_for_a_name_share_one_look_up_and_the_next_one_is_new(loop, monkeypatch) -> None:
    asked, answers = [], threading.Event()

    def look_up(host, port, **options):
        asked.append((host, port))
        assert answers.wait(20)
        return [host]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def ask():
        with pytest.raises(TimeoutError):  # one who gives up takes nothing from the others
            await asyncio.wait_for(loop.getaddrinfo("votes.invalid", 80), 0.05)
        waiting = [asyncio.ensure_future(loop.getaddrinfo("votes.invalid", 80)) for _ in range(64)]
        await asyncio.sleep(0.05)
        answers.set()
        return await asyncio.gather(*waiting)

    assert loop.run_until_complete(ask()) == [["votes.invalid"]] * 64
    assert asked == [("votes.invalid", 80)]
    loop.run_until_complete(loop.getaddrinfo("votes.invalid", 80))
    assert len(asked) == 2


def test_a_name_that_nobody_knows_and_a_thread_that_cannot_be_had_are_errors_of_the_network(loop, monkeypatch) -> None:
    def unknown(host, port, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror):
        loop.run_until_complete(loop.getaddrinfo("votes.invalid", 80))

    def none(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(OSError, match=r"votes\.invalid cannot be looked up: can't start new thread"):
        loop.run_until_complete(loop.getaddrinfo("votes.invalid", 80))
