"""The share of requests that a canary gets, and when it is taken back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from lorapar.errors import UnreachableError
from lorapar.registry import Registry
from lorapar.serving import ServingSettings

from .conftest import FakeVllm, Site, play, started


@dataclass
class Canary:
    """`task@2` as the candidate of a server whose production is `task@1`."""

    vllm: FakeVllm
    settings: ServingSettings
    registry: Registry

    def play(self, scenario: Callable[[Site], Awaitable[None]], **settings: Any) -> None:
        play(scenario, self.vllm, self.settings.model_copy(update=settings))

    async def share(self, site: Site, percent: float) -> None:
        """Give the candidate a share, which the server sees."""
        self.registry.set_share("task", "candidate", 2, percent)
        await site.look()

    async def is_returned(self, site: Site) -> None:
        """Wait until the share that a server takes back is so in the registry."""
        await asyncio.gather(*site.middleware.follower._returning)  # type: ignore[union-attr]


@pytest.fixture
def canary(vllm: FakeVllm, settings: ServingSettings, registry: Registry) -> Canary:
    return Canary(vllm, settings, registry)


async def shares(site: Site, keys: int = 200) -> Counter[str]:
    """How often each version answers, over that many keys."""
    answers = [await site.ask("task", {"x-lorapar-key": f"user{number}"}) for number in range(keys)]
    return Counter(answer.headers["x-lorapar-adapter"] for answer in answers)


async def ask_many(site: Site) -> None:
    """Enough requests of different users, all at once, for a verdict."""
    await asyncio.gather(*[site.ask("task", user=str(number)) for number in range(40)])


def test_canary_gets_its_share_and_a_key_always_the_same_side(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        assert await shares(site) == {"task@1": 200}
        await canary.share(site, 25.0)
        first = await shares(site)
        assert 30 <= first["task@2"] <= 70
        assert await shares(site) == first
        assert (await site.ask("task", user="user1")).headers == (await site.ask("task", user="user1")).headers
        assert (await site.ask("task@production", {"x-lorapar-key": "user1"})).json() == {"model": "task@1"}

    canary.play(scenario, canary_latency_ratio=1000.0)


def test_failing_canary_is_sent_nothing_more_and_its_share_is_taken_back_for_all(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        canary.vllm.failing.add("task@2")
        await canary.share(site, 50.0)
        await ask_many(site)
        canary.vllm.history.clear()
        await shares(site, 50)
        assert "answer task@2" not in canary.vllm.history
        await canary.is_returned(site)
        record = canary.registry.read_alias("task", "candidate")
        assert record is not None
        assert (record.version, record.share_percent) == (2, 0.0)
        assert "requests failed" in record.share_reason

    canary.play(scenario)


def test_slow_canary_is_returned(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        canary.vllm.slow = {"task@1": 0.01, "task@2": 0.1}
        await canary.share(site, 50.0)
        await ask_many(site)
        assert await shares(site, 20) == {"task@1": 20}

    canary.play(scenario)


def test_server_that_may_only_read_ends_the_canary_for_itself(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UnreachableError("the object store refused: AccessDenied")

    async def scenario(site: Site) -> None:
        canary.vllm.failing.add("task@2")
        await canary.share(site, 50.0)
        monkeypatch.setattr(Registry, "set_share", refuse)
        await ask_many(site)
        await site.look()
        assert await shares(site, 20) == {"task@1": 20}

    canary.play(scenario)


def test_canary_given_again_after_it_was_returned_runs_again(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        canary.vllm.failing.add("task@2")
        await canary.share(site, 50.0)
        await ask_many(site)
        canary.vllm.failing.clear()
        await canary.is_returned(site)
        await site.look()  # sees the share that was taken back
        await canary.share(site, 50.0)
        assert (await shares(site, 40))["task@2"] > 0

    canary.play(scenario, canary_latency_ratio=1000.0)


def test_canary_begun_anew_is_not_judged_by_the_requests_of_the_one_before(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        canary.vllm.failing.add("task@2")
        await canary.share(site, 100.0)
        await asyncio.gather(*[site.ask("task") for _ in range(3)])  # too few for a verdict, and all failed
        await canary.share(site, 0.0)
        canary.vllm.failing.clear()
        await canary.share(site, 100.0)
        assert await shares(site, 20) == {"task@2": 20}

    canary.play(scenario)


def test_canary_ends_when_it_is_promoted(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        await canary.share(site, 50.0)
        canary.registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert await shares(site, 20) == {"task@2": 20}
        assert list(canary.vllm.loaded) == ["task@2"]

    canary.play(scenario)


def test_damaged_candidate_does_not_keep_production_from_being_followed(canary: Canary) -> None:
    async def scenario(site: Site) -> None:
        canary.registry.store.write("adapters/task/aliases/candidate.json", b"{")
        canary.registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@2"}

    canary.play(scenario)


def test_every_replica_follows_within_the_set_time(settings: ServingSettings, registry: Registry) -> None:
    async def scenario() -> None:
        often = settings.model_copy(update={"poll_seconds": 0.1})
        async with started(FakeVllm(), often) as one, started(FakeVllm(), often) as other:
            registry.move_alias("task", "production", 2, expected=1)
            async with asyncio.timeout(10):
                for site in (one, other):
                    while (await site.ask("task")).json() != {"model": "task@2"}:
                        await asyncio.sleep(0.05)

    asyncio.run(scenario())
