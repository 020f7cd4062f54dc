"""A registry with two versions of an adapter, and an application that loads, unloads and answers as vLLM does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.middleware import AdapterMiddleware
from lorapar.store import open_store

BASE = "owner/base"


def adapter_files(folder: Path, text: str, base: str = BASE, rank: int = 8) -> Path:
    """A folder that looks like an adapter; its weights are only bytes, which nothing here loads."""
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": rank, "base_model_name_or_path": base})
    (folder / "adapter_model.safetensors").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """`task@1` is in production, `task@2` is the candidate."""
    registry = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        registry.publish("task", adapter_files(tmp_path / f"made{number}", f"weights {number}"))
    registry.set_alias("task", "production", 1)
    registry.set_alias("task", "candidate", 2)
    return registry


@pytest.fixture
def settings(registry: Registry, tmp_path: Path) -> ServingSettings:
    """Follows production; looks at the aliases when a test says so."""
    return ServingSettings(
        registry=registry.address,
        adapters="task",
        base_model=BASE,
        cache=tmp_path / "cache",
        poll_seconds=1000,
        canary_requests=4,
    )


@dataclass
class FakeVllm:
    """The routes of a vLLM server that the middleware meets, with a table of names in place of an engine."""

    loaded: dict[str, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    """Models that answer with status 500."""
    texts: dict[str, str] = field(default_factory=dict)
    """What a model says; nothing where it is not here."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds before a model answers."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """A stream's last part waits for it."""
    before_load: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    """What happens while a load waits for its turn."""
    key: str = ""

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.models),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/health", lambda request: PlainTextResponse("")),
        ]

    def refuses(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return bool(self.key) and (scheme.lower(), given) != ("bearer", self.key)

    async def models(self, request: Request) -> Response:
        names = [BASE, *self.loaded]
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def load(self, request: Request) -> Response:
        if self.refuses(request):
            return Response(status_code=401)
        body = await request.json()
        if "damaged" in Path(body["lora_path"], "adapter_model.safetensors").read_text(encoding="utf-8"):
            return JSONResponse({"error": {"message": "cannot load this"}}, 500)
        if self.before_load:
            await self.before_load(body)
        if body["lora_name"] in self.loaded:
            return JSONResponse({"error": {"message": "has already been loaded"}}, 400)
        self.loaded[body["lora_name"]] = body["lora_path"]
        self.history.append(f"load {body['lora_name']}")
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        body = await request.json()
        del self.loaded[body["lora_name"]]
        self.history.append(f"unload {body['lora_name']}")
        return PlainTextResponse("Success")

    async def complete(self, request: Request) -> Response:
        if self.refuses(request):
            return Response(status_code=401)
        body = await request.json()
        self.bodies.append(body)
        model = body["model"]
        self.history.append(f"answer {model}")
        await asyncio.sleep(self.slow.get(model, 0))
        if model in self.failing:
            raise RuntimeError("the engine died")
        if model != BASE and model not in self.loaded:
            return JSONResponse({"error": {"message": "does not exist"}}, 404)
        if body.get("stream"):
            return StreamingResponse(self.parts(model), media_type="text/event-stream")
        completion = (
            {"choices": [{"index": 0, "text": self.texts[model], "finish_reason": "stop"}]}
            if model in self.texts
            else {}
        )
        return JSONResponse({"model": model, **completion})

    async def parts(self, model: str) -> AsyncIterator[bytes]:
        yield b"data: " + json.dumps({"model": model}).encode() + b"\n\n"
        await self.released.wait()
        yield b"data: [DONE]\n\n"


class Site:
    """A server with the middleware in it, and a client of it."""

    def __init__(self, vllm: FakeVllm, settings: ServingSettings) -> None:
        self.vllm = vllm
        self.app = Starlette(routes=vllm.routes(), middleware=[Middleware(AdapterMiddleware, settings=settings)])
        self.app.state.args = type("Arguments", (), {"model": BASE, "api_key": [vllm.key] if vllm.key else None})
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://server")

    @property
    def middleware(self) -> AdapterMiddleware:
        found = self.app.middleware_stack.app  # type: ignore[union-attr]
        assert isinstance(found, AdapterMiddleware)
        return found

    async def look(self) -> None:
        """Let the server look at the aliases."""
        assert self.middleware.follower is not None
        await self.middleware.follower.sync()

    async def ask(self, model: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"model": model, **fields}, headers=headers)


@asynccontextmanager
async def started(vllm: FakeVllm, settings: ServingSettings) -> AsyncIterator[Site]:
    """A site that has lived through its start, as under a real server."""
    site = Site(vllm, settings)
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(site.app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        async with site.client:
            yield site
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        # As uvicorn: with this message the process ends, whatever the application has still to do.
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


Scenario = Callable[[Site], Coroutine[Any, Any, None]]


def play(scenario: Scenario, vllm: FakeVllm, settings: ServingSettings) -> None:
    """Run a scenario against a server that has started."""

    async def all_of_it() -> None:
        vllm.released = asyncio.Event()
        async with started(vllm, settings) as site:
            await scenario(site)

    asyncio.run(all_of_it())
