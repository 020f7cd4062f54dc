"""Loading what aliases lead to, and not trying a broken version at every look."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.base_identity import ServedBase
from lorapar.serving.cache import AdapterCache
from lorapar.serving.loader import Loader
from lorapar.serving.traffic import Traffic

from .conftest import BASE, adapter_files


class Table:
    """An engine that only remembers."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def load(self, model: str, folder: str) -> None:
        self.models.append(model)

    async def unload(self, model: str) -> None:
        self.models.remove(model)

    async def loaded(self) -> frozenset[str]:
        return frozenset(self.models)

    async def slots_taken(self) -> int:
        return len(self.models)


def make(registry: Registry, settings: ServingSettings, retry_seconds: float) -> tuple[Loader, Table, Traffic]:
    engine, traffic = Table(), Traffic()
    cache = AdapterCache(registry, settings.cache, ServedBase(BASE))
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
    assert engine.models == ["task@2"]


def test_version_is_released_when_it_answers_nobody(registry: Registry, settings: ServingSettings) -> None:
    loader, engine, traffic = make(registry, settings, retry_seconds=10.0)

    async def scenario() -> None:
        for number in (1, 2):
            assert await loader.load("task", number, registry.resolve(f"task@{number}").digest)
        with traffic.through("task@1"):
            await loader.release("task", frozenset({2}), spare=0)
            assert engine.models == ["task@1", "task@2"]
            assert (settings.cache / "task" / "1").is_dir()
        await loader.release("task", frozenset({2}), spare=0)
        assert engine.models == ["task@2"]
        assert not (settings.cache / "task" / "1").exists()

    asyncio.run(scenario())


def test_files_of_a_version_that_a_client_asked_for_stay_while_the_engine_has_it(
    registry: Registry, settings: ServingSettings, tmp_path: Path
) -> None:
    registry.publish("task", adapter_files(tmp_path / "made3", "weights 3"))
    loader, engine, _ = make(registry, settings, retry_seconds=10.0)
    folders = {number: loader._cache.fetch("task", number) for number in (1, 2, 3)}
    for number, folder in folders.items():
        os.utime(folder, (number, number))
    engine.models = [BASE, "task@1"]  # as the resolver loads it, without this loader
    asyncio.run(loader.release("task", frozenset(), spare=1))
    assert [number for number, folder in folders.items() if folder.is_dir()] == [1, 3]
