"""An adapter that is unloaded leaves the engine too; tests/integration/serving shows that vLLM alone keeps it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from lorapar.registry import Registry
from lorapar.serving import ServingSettings, metrics

from .conftest import FakeVllm, Site, started


class EngineClient:
    """What vLLM's state holds of the engine: weights by number, and a call to take them out."""

    def __init__(self, vllm: FakeVllm) -> None:
        self.vllm, self.slots, self.broken = vllm, dict[str, int](), False

    @property
    def lora_requests(self) -> dict[str, SimpleNamespace]:
        for name in self.vllm.loaded:
            self.slots.setdefault(name, len(self.slots) + 1)
        return {name: SimpleNamespace(lora_int_id=self.slots[name]) for name in self.vllm.loaded}

    async def remove_lora(self, number: int) -> bool:
        if self.broken:
            raise RuntimeError("the engine died")
        self.slots = {name: slot for name, slot in self.slots.items() if slot != number}
        return True

    async def list_loras(self) -> set[int]:
        return {slot for name, slot in self.slots.items() if self.lora_requests or name}


def test_switch_frees_the_slot(vllm: FakeVllm, settings: ServingSettings, registry: Registry) -> None:
    async def scenario() -> None:
        async with started(vllm, settings) as site:
            engine = _engine(site, vllm)
            registry.set_alias("task", "production", 2)
            await site.look()
            assert list(engine.slots) == ["task@2"]
            assert metrics.ENGINE_ADAPTERS._value.get() == 1.0

    asyncio.run(scenario())


def test_engine_that_keeps_a_slot_holds_up_no_switch(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with started(vllm, settings) as site:
            _engine(site, vllm).broken = True
            registry.set_alias("task", "production", 2)
            await site.look()
            assert (await site.ask("task")).json() == {"model": "task@2"}
            assert "task@1 keeps its slot in the engine: the engine died" in caplog.text

    asyncio.run(scenario())


def _engine(site: Site, vllm: FakeVllm) -> EngineClient:
    engine = EngineClient(vllm)
    assert engine.lora_requests  # task@1 is in its slot
    site.app.state.engine_client = site.app.state.openai_serving_models = engine
    return engine
