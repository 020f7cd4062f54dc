"""The middleware that takes RL's adapters, in a real ASGI application: what comes in, who may send, what is closed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from lorapar.serving import rollout_adapters
from lorapar.serving.rollout_adapters import RolloutAdapters
from lorapar.training.rollout_server import packed

from .conftest import BASE, FakeVllm, adapter_files

AT = "/v1/lorapar/rollouts"
ARGUMENTS = {"model": BASE, "max_lora_rank": 8, "enable_lora": True, "logprobs_mode": "processed_logprobs"}


def play(vllm: FakeVllm, scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario against an application of its own."""

    async def all_of_it() -> None:
        app = Starlette(routes=vllm.routes(), middleware=[Middleware(RolloutAdapters)])
        app.state.args = type("Arguments", (), {**ARGUMENTS, "api_key": [vllm.key] if vllm.key else None})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            await scenario(client)

    asyncio.run(all_of_it())


@pytest.fixture(autouse=True)
def _the_tests_own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The middleware lives as long as its server, which ends with its process; here none does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def sent(tmp_path: Path) -> bytes:
    return packed(adapter_files(tmp_path / "made", "weights \n of bytes"))


def test_an_adapter_is_loaded_once_with_the_bytes_that_were_sent_and_is_forgotten(vllm: FakeVllm, sent: bytes) -> None:
    name = "lorapar-0a1b2c3d-7"

    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            assert (await client.post(f"{AT}/{name}", content=sent)).status_code == 200
        folder = Path(vllm.loaded[name])
        assert (folder / "adapter_model.safetensors").read_bytes() == b"weights \n of bytes"
        told = (await client.get(AT)).json()
        assert told.items() >= {"adapters": [name], "max_lora_rank": 8, "enable_lora": True}.items()
        for _ in range(2):
            assert (await client.delete(f"{AT}/{name}")).status_code == 200
        assert (vllm.loaded, folder.exists()) == ({}, False)
        assert vllm.history == [f"load {name}", f"unload {name}"]

    play(vllm, scenario)


@pytest.mark.parametrize(
    "name", ["task@1", "lorapar-0a1b2c3d", "lorapar-0A1B2C3D-1", "lorapar-0a1b2c3d-1x", "..", "%2e%2e%2fx", ""]
)
def test_no_other_name_is_taken(vllm: FakeVllm, sent: bytes, name: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(f"{AT}/{name}", content=sent)
        assert answer.status_code in (400, 404, 405)
        assert vllm.loaded == {}

    play(vllm, scenario)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]\nweights", b"no json\nweights", b'{"r": 2}\ndamaged'])
def test_what_is_no_adapter_is_refused_and_leaves_nothing(vllm: FakeVllm, body: bytes) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(f"{AT}/lorapar-0a1b2c3d-1", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
        assert (await client.get(AT)).json()["adapters"] == []
        assert vllm.loaded == {}

    play(vllm, scenario)


def test_who_has_no_key_sends_and_learns_nothing(vllm: FakeVllm, sent: bytes) -> None:
    vllm.key = "secret"

    async def scenario(client: httpx.AsyncClient) -> None:
        path = f"{AT}/lorapar-0a1b2c3d-1"
        refused = [await client.post(path, content=sent), await client.get(AT), await client.delete(path)]
        assert [answer.status_code for answer in refused] == [401] * 3
        assert vllm.loaded == {}
        allowed = await client.post(path, content=sent, headers={"authorization": "bearer secret"})
        assert allowed.status_code == 200

    play(vllm, scenario)


def test_paths_of_the_server_s_disk_are_closed_and_completions_are_not(vllm: FakeVllm) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"):
            answer = await client.post(path, json={"lora_name": "x", "lora_path": "/etc"})
            assert answer.status_code == 403
        assert (await client.post("/v1/completions", json={"model": BASE})).json() == {"model": BASE}

    play(vllm, scenario)


def test_adapters_that_nobody_took_back_make_room(vllm: FakeVllm, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_adapters, "MOST_ADAPTERS", 2)

    async def scenario(client: httpx.AsyncClient) -> None:
        for step in range(4):
            await client.post(f"{AT}/lorapar-0a1b2c3d-{step}", content=sent)
        assert list(vllm.loaded) == ["lorapar-0a1b2c3d-2", "lorapar-0a1b2c3d-3"]

    play(vllm, scenario)
