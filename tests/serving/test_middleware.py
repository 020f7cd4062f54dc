"""The middleware in a real ASGI application, driven over HTTP: names, switches, drains, refusals."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lorapar.errors import UnreachableError
from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.asgi import answer_json
from lorapar.store import ObjectStore

from .conftest import BASE, FakeVllm, Site, adapter_files, play


@pytest.mark.parametrize("model", ["task", "task@production", "task@1"])
def test_name_alias_and_version_become_the_version(model: str, vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        answer = await site.ask(model, prompt="é", temperature=0.25)
        assert answer.json() == {"model": "task@1"}
        assert answer.headers["x-lorapar-adapter"] == "task@1"
        assert vllm.bodies == [{"model": "task@1", "prompt": "é", "temperature": 0.25}]

    play(scenario, vllm, settings)


def test_requests_name_what_ends_an_answer_where_the_base_model_does_not(
    vllm: FakeVllm, registry: Registry, settings: ServingSettings, tmp_path: Path
) -> None:
    """vLLM 0.32 takes end tokens from the model's files and from requests, from nowhere else."""
    folder = adapter_files(tmp_path / "made3", "weights 3")
    write_json(folder / "lineage.json", {"serving": {"rank": 8, "stop_tokens": {"<|im_end|>": 7, "</s>": 2}}})
    registry.publish("task", folder)
    registry.set_alias("task", "production", 3)

    async def scenario(site: Site) -> None:
        for more in ({}, {"stop_token_ids": [9]}, {"ignore_eos": True}, {"stop_token_ids": "no list"}):
            await site.ask("task", **more)
        await site.ask(BASE)
        assert [body.get("stop_token_ids") for body in vllm.bodies] == [[2, 7], [2, 7, 9], None, "no list", None]

    play(scenario, vllm, settings)


def test_requests_name_the_texts_that_end_an_answer(
    vllm: FakeVllm, registry: Registry, settings: ServingSettings, tmp_path: Path
) -> None:
    folder = adapter_files(tmp_path / "made3", "weights 3")
    write_json(folder / "lineage.json", {"serving": {"rank": 8, "stop_strings": ["Question:"]}})
    registry.publish("task", folder)
    registry.set_alias("task", "production", 3)

    async def scenario(site: Site) -> None:
        for more in ({}, {"stop": ["."]}, {"stop": "."}, {"ignore_eos": True}, {"stop": 3}):
            await site.ask("task", **more)
        both = [".", "Question:"]
        assert [body.get("stop") for body in vllm.bodies] == [["Question:"], both, both, None, 3]
        assert all("stop_token_ids" not in body for body in vllm.bodies)

    play(scenario, vllm, settings)


@pytest.mark.parametrize("model", [BASE, "unknown", "unknown@3", "../task", "task@0", "task@-1", "task@", 7, None])
def test_what_is_no_adapter_passes_as_it_is(model: Any, vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        raw = json.dumps({"model": model, "prompt": "x"}, indent=3).encode()
        answer = await site.client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
        assert "x-lorapar-adapter" not in answer.headers
        assert vllm.bodies[-1]["model"] == model

    play(scenario, vllm, settings)


def test_body_that_no_parser_takes_is_left_to_the_server_behind(vllm: FakeVllm, settings: ServingSettings) -> None:
    seen: list[bytes] = []

    async def scenario(site: Site) -> None:
        async def keeps(scope: Any, receive: Any, send: Any) -> None:
            seen.append((await receive())["body"])
            await answer_json(send, 400, {})

        site.middleware.app = keeps
        for body in (b"[" * 100_000, b"{", b"\xff"):
            answer = await site.client.post(
                "/v1/completions", content=body, headers={"content-type": "application/json"}
            )
            assert (answer.status_code, seen.pop()) == (400, body)

    play(scenario, vllm, settings)


def test_alias_that_is_not_followed_is_refused_and_says_what_there_is(
    vllm: FakeVllm, settings: ServingSettings
) -> None:
    async def scenario(site: Site) -> None:
        answer = await site.ask("task@candidate")
        assert answer.status_code == 404
        assert "there is task, and task@VERSION" in answer.json()["error"]["message"]

    play(scenario, vllm, settings)


def test_moved_alias_is_loaded_before_it_is_switched_to_and_the_old_version_goes(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry
) -> None:
    async def scenario(site: Site) -> None:
        await site.ask("task")
        registry.move_alias("task", "production", 2, expected=1)
        await site.ask("task")  # nobody has looked yet
        await site.look()
        await site.ask("task")
        assert vllm.history == [
            *("load task@1", "answer task@1", "answer task@1"),
            *("load task@2", "unload task@1", "answer task@2"),
        ]

    play(scenario, vllm, settings)


def test_rollback_leads_back_to_the_old_version(vllm: FakeVllm, settings: ServingSettings, registry: Registry) -> None:
    async def scenario(site: Site) -> None:
        registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        registry.move_alias("task", "production", 1, expected=2, rollback=True)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@1"}
        assert list(vllm.loaded) == ["task@1"]

    play(scenario, vllm, settings)


def test_version_that_is_answering_is_not_unloaded_and_its_stream_passes_untouched(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry
) -> None:
    async def scenario(site: Site) -> None:
        stream = asyncio.create_task(site.ask("task", stream=True))
        while "answer task@1" not in vllm.history:
            await asyncio.sleep(0)
        registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@2"}
        assert set(vllm.loaded) == {"task@1", "task@2"}
        vllm.released.set()
        answer = await stream
        assert answer.content == b'data: {"model": "task@1"}\n\ndata: [DONE]\n\n'
        assert answer.headers["x-lorapar-adapter"] == "task@1"
        await site.look()
        assert set(vllm.loaded) == {"task@2"}

    play(scenario, vllm, settings)


class Unreachable:
    """A store that does not answer, for as long as a test says so; else the store it stands before."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.away = True

    def __getattr__(self, name: str) -> Any:
        if self.away and name != "address":
            raise UnreachableError("the object store did not answer")
        return getattr(self._store, name)


def cut_off(site: Site) -> Unreachable:
    """Take the registry away from the running server."""
    assert site.middleware.follower is not None
    registry = site.middleware.follower._registry
    wall = Unreachable(registry.store)
    registry.store = registry.alias_store._store = registry.version_store._store = wall  # type: ignore[assignment]
    return wall


def test_registry_that_does_not_answer_changes_nothing_and_is_followed_again_later(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry
) -> None:
    async def scenario(site: Site) -> None:
        wall = cut_off(site)
        registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@1"}
        wall.away = False
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@2"}

    play(scenario, vllm, settings)


def test_damaged_object_is_refused_and_the_old_version_goes_on(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry, tmp_path: Path
) -> None:
    async def scenario(site: Site) -> None:
        registry.store.write("adapters/task/2/adapter_model.safetensors", b"weights X")
        registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@1"}
        assert "load task@2" not in vllm.history
        assert not (tmp_path / "cache" / "task" / "2").exists()

    play(scenario, vllm, settings)


@pytest.mark.parametrize(
    ("weights", "base"),
    [("damaged for the engine", BASE), ("weights 3", "owner/other")],
    ids=["the engine refuses it", "it is for another base"],
)
def test_version_that_cannot_be_loaded_leaves_the_old_one(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry, tmp_path: Path, weights: str, base: str
) -> None:
    async def scenario(site: Site) -> None:
        registry.publish("task", adapter_files(tmp_path / "made3", weights, base=base))
        registry.move_alias("task", "production", 3, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@1"}
        assert list(vllm.loaded) == ["task@1"]

    play(scenario, vllm, settings)


def test_version_that_a_client_got_loaded_meanwhile_is_taken_as_loaded(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry
) -> None:
    async def quicker(body: dict[str, Any]) -> None:
        vllm.loaded[body["lora_name"]] = "by the resolver"

    async def scenario(site: Site) -> None:
        vllm.before_load = quicker
        registry.move_alias("task", "production", 2, expected=1)
        await site.look()
        assert (await site.ask("task")).json() == {"model": "task@2"}

    play(scenario, vllm, settings)


def test_name_without_any_loaded_version_asks_to_come_again(vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        answer = await site.ask("new")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1000")

    play(scenario, vllm, settings.model_copy(update={"adapters": "new"}))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/load_lora_adapter/"),
        ("POST", "/prefix/v1/unload_lora_adapter"),
        ("POST", "/adapters"),
        ("DELETE", "/adapters/task@1"),
    ],
)
def test_nobody_outside_loads_or_unloads(method: str, path: str, vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        answer = await site.client.request(method, path, json={"lora_name": "task@1", "lora_path": "/etc"})
        assert answer.status_code == 403
        assert vllm.history == ["load task@1"]

    play(scenario, vllm, settings)


def test_listing_shows_what_clients_may_ask_for(vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        cards = {card["id"]: card for card in (await site.client.get("/v1/models")).json()["data"]}
        assert set(cards) == {BASE, "task@1", "task@production", "task"}
        assert cards["task"]["root"] == "task@1"

    play(scenario, vllm, settings)


def test_with_keys_the_server_loads_by_one_and_strangers_get_vllms_own_refusal(
    vllm: FakeVllm, settings: ServingSettings
) -> None:
    vllm.key = "secret"

    async def scenario(site: Site) -> None:
        assert list(vllm.loaded) == ["task@1"]
        assert (await site.ask("task")).status_code == 401
        assert (await site.ask("task@candidate")).status_code == 401
        for header in ("Bearer secret", "bearer secret", "BEARER secret"):
            answer = await site.ask("task", {"authorization": header})
            assert answer.json() == {"model": "task@1"}

    play(scenario, vllm, settings)


def test_model_named_in_sagemakers_header_is_resolved_too(vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario(site: Site) -> None:
        answer = await site.ask(BASE, {"X-Amzn-SageMaker-Adapter-Identifier": "task"})
        assert answer.json() == {"model": "task@1"}

    play(scenario, vllm, settings)


def test_without_a_lifespan_the_first_request_begins_to_follow(vllm: FakeVllm, settings: ServingSettings) -> None:
    async def scenario() -> None:
        site = Site(vllm, settings)
        assert (await site.client.get("/health")).status_code == 200
        assert site.middleware.follower is not None
        await site.middleware.follower.synced.wait()
        assert (await site.ask("task")).json() == {"model": "task@1"}

    asyncio.run(scenario())
