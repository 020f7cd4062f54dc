"""Loading what aliases lead to, and not trying a broken version at every look."""

from __future__ import annotations

import asyncio

import pytest

from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.cache import AdapterCache
from lorapar.serving.loader import Loader
from lorapar.serving.traffic import Traffic

from .conftest import BASE


class Table:
    """An engine that only remembers."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def load(self, model: str, folder: str) -> None:
        self.loaded.append(model)

    async def unload(self, model: str) -> None:
        self.loaded.remove(model)


def make(registry: Registry, settings: ServingSettings, retry_seconds: float) -> tuple[Loader, Table, Traffic]:
    engine, traffic = Table(), Traffic()
    cache = AdapterCache(registry, settings.cache, BASE)
    return Loader(cache, engine, traffic, retry_seconds), engine, traffic  # type: ignore[arg-type]


def test_broken_version_is_tried_again_later_and_later(
    registry: Registry, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("lorapar.serving.loader.time.monotonic", lambda: now)
    loader, engine, _ = make(registry, settings, retry_seconds=10.0)
    digest = registry.resolve("task@2").digest
    right = registry.store.read("adapters/task/2/adapter_model.safetensors")
    registry.store.write("adapters/task/2/adapter_model.safetensors", b"weights X")

    def tried() -> bool:
        before = loader._failures.get(("task", 2))
        asyncio.run(loader.load("task", 2, digest))
        return loader._failures.get(("task", 2)) is not before

    assert tried()
    attempts = []
    for now in range(0, 200, 5):
        if tried():
            attempts.append(now)
    assert attempts == [10, 30, 70, 150]
    registry.store.write("adapters/task/2/adapter_model.safetensors", right)
    now = 1_000.0
    assert asyncio.run(loader.load("task", 2, digest))
    assert engine.loaded == ["task@2"]


def test_version_is_released_when_it_answers_nobody(registry: Registry, settings: ServingSettings) -> None:
    loader, engine, traffic = make(registry, settings, retry_seconds=10.0)

    async def scenario() -> None:
        for number in (1, 2):
            assert await loader.load("task", number, registry.resolve(f"task@{number}").digest)
        with traffic.through("task@1"):
            await loader.release("task", frozenset({2}), spare=0)
            assert engine.loaded == ["task@1", "task@2"]
            assert (settings.cache / "task" / "1").is_dir()
        await loader.release("task", frozenset({2}), spare=0)
        assert engine.loaded == ["task@2"]
        assert not (settings.cache / "task" / "1").exists()

    asyncio.run(scenario())
