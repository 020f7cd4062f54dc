"""Promote and roll back while clients ask: no request fails, and none is answered by what a version no longer is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from .adapters import plain_answer
from .conftest import POLL_SECONDS, Site
from .test_1_answers import assert_equals_peft
from .vllm_server import Reply

CLIENTS = 8
PREFIX = "Everybody asks with the same long words before the question, so that they are computed only once. " * 3
PROMPTS = tuple(f"{PREFIX}Question {number}?" for number in range(4))


@dataclass(frozen=True)
class Asked:
    """One request of a client."""

    prompt: str
    sent: float
    answered: float
    reply: Reply


@dataclass
class Load:
    """What all clients asked until now."""

    asked: list[Asked] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


@contextmanager
def clients(site: Site) -> Iterator[Load]:
    """Eight of them, each asking `task` again as soon as it is answered."""
    load, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        while not stop.is_set():
            prompt = PROMPTS[number % len(PROMPTS)]
            number += 1
            sent = time.monotonic()
            try:
                reply = site.vllm.complete("task", prompt)
            except BaseException as error:
                load.failures.append(error)
                return
            load.asked.append(Asked(prompt, sent, time.monotonic(), reply))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def move(site: Site, load: Load, version: int) -> float:
    """Move `production` under load, wait until a client saw it, and a little longer; returns the seconds it took."""
    moved = time.monotonic()
    site.registry.set_alias("task", "production", version)
    new = f"task@{version}"
    site.wait_until(lambda: any(one.reply.adapter == new and one.sent > moved for one in list(load.asked)))
    took = time.monotonic() - moved
    first = min(one.answered for one in list(load.asked) if one.reply.adapter == new and one.sent > moved)
    site.wait_until(lambda: sum(one.sent > first for one in list(load.asked)) >= 2 * len(PROMPTS))
    late = [one.reply.adapter for one in list(load.asked) if one.sent > first]
    assert set(late) == {new}, "after a client saw the new version, another got the old one"
    return took


def test_promotions_and_rollbacks_under_load(site: Site) -> None:
    with clients(site) as load:
        site.wait_until(lambda: len(load.asked) > 2 * CLIENTS)
        took = [move(site, load, version) for version in (2, 1, 3, 1)]
    assert not load.failures
    assert {one.reply.status for one in load.asked} == {200}
    for one in load.asked:
        assert one.reply.adapter is not None
        right = plain_answer(site.made[one.reply.adapter], one.prompt)
        assert one.reply.tokens == right.tokens, f"{one.reply.adapter} gave another version's answer"
    assert {one.reply.adapter for one in load.asked} == {"task@1", "task@2", "task@3"}
    assert max(took) < POLL_SECONDS + 20.0, "a busy machine takes 6 s; a server that does not follow takes for ever"
    assert prefix_cache_hits(site) > 0


def prefix_cache_hits(site: Site) -> float:
    text = site.vllm.get("/metrics").body.decode()
    return sum(float(value) for value in re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", text, re.MULTILINE))


def test_old_versions_are_unloaded(site: Site) -> None:
    def loaded() -> set[str]:
        cards = site.vllm.get("/v1/models").json["data"]
        return {card["id"] for card in cards if card["owned_by"] == "vllm" and card["id"].startswith("task@")}

    site.promote(3)
    assert "task@3" in loaded()
    site.promote(1)
    site.wait_until(lambda: "task@3" not in loaded())
    assert loaded() == {"task@1", "task@2"}, "production and candidate, and nothing else"


def test_switches_free_the_slot_of_the_version_before(site: Site) -> None:
    """With a slot for each alias and one more. vLLM's own endpoint forgets the name and keeps the weights (0.32)."""

    def held() -> float:
        text = site.vllm.get("/metrics").body.decode()
        return float(re.findall(r"^lorapar_serving_engine_adapters (\S+)$", text, re.MULTILINE)[0])

    slots = int(site.vllm.option("--max-loras"))
    assert slots == 4
    for version in (3, 1, 3, 1):  # other tests asked for more versions by number than there are slots: all are taken
        site.promote(version)
        site.wait_until(lambda: held() == slots - 1)
    assert_equals_peft(site, {"task": "task@1", "other": "other@1"})


def test_canary_takes_its_share_by_key(site: Site) -> None:
    site.registry.set_share("task", "candidate", 2, 30.0)
    keys = [{"x-lorapar-key": f"user{number}"} for number in range(40)]

    def sides() -> list[str | None]:
        return [site.vllm.complete("task", "?", max_tokens=1, headers=key).adapter for key in keys]

    site.wait_until(lambda: "task@2" in sides())
    first = sides()
    assert 4 <= first.count("task@2") <= 20
    assert sides() == first
    site.registry.set_share("task", "candidate", 2, 0.0)
    site.wait_until(lambda: set(sides()) == {"task@1"})


def test_damaged_object_is_refused_with_the_old_version_serving(site: Site) -> None:
    right = site.registry.read_file(site.registry.resolve("task@3"), "adapter_model.safetensors")
    wrong = bytes([*right[:-1], right[-1] ^ 1])
    number = site.registry.publish("task", _copy_of(site, "task@3", "a fourth")).number
    site.registry.store.write(f"adapters/task/{number}/adapter_model.safetensors", wrong)
    site.registry.set_alias("task", "production", number)
    site.wait_until(lambda: f"task@{number} is not loaded" in site.vllm.log_text())
    assert_equals_peft(site, {"task": "task@1", "other": "other@1"})
    assert site.vllm.complete(f"task@{number}", "Who?").status == 404
    site.registry.store.write(f"adapters/task/{number}/adapter_model.safetensors", right)
    site.wait_until(lambda: site.answering("task") == f"task@{number}")
    site.promote(1)


def _copy_of(site: Site, version: str, card: str) -> object:
    folder = site.made[version].with_name(card.replace(" ", "-"))
    folder.mkdir()
    for path in site.made[version].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


@pytest.mark.usefixtures("site")
def test_registry_away(site: Site, s3_server: object) -> None:
    """Last, because it takes the S3 server away: what is loaded goes on; once it is back, moves are followed again."""
    s3_server.kill()  # type: ignore[attr-defined]
    site.wait_until(lambda: "aliases stay as they are" in site.vllm.log_text())
    assert_equals_peft(site, {"task": "task@1", "other": "other@1", "task@2": "task@2"})
    s3_server.start()  # type: ignore[attr-defined]
    site.registry.set_alias("task", "production", 3)
    site.wait_until(lambda: site.answering("task") == "task@3", seconds=60.0)
