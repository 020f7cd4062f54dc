"""Load versions into the engine and unload them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from lorapar.errors import LoraparError
from lorapar.records import read_json
from lorapar.registry import LINEAGE_FILE, stop_strings, stop_token_ids
from lorapar.serving import metrics
from lorapar.serving.cache import AdapterCache
from lorapar.serving.engine import Engine
from lorapar.serving.traffic import Traffic

logger = logging.getLogger(f"vllm.{__name__}")
_LONGEST_WAIT_SECONDS = 300.0


@dataclass
class _Failure:
    attempts: int
    message: str
    again_at: float


@dataclass(frozen=True)
class Ends:
    """What ends an adapter's answers and vLLM does not know by itself, because it reads no such file."""

    token_ids: frozenset[int] = frozenset()
    strings: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Path) -> Ends:
        """From the lineage of a downloaded version; equal for all versions unless base or template changes."""
        path = folder / LINEAGE_FILE
        serving = read_json(path).get("serving", {}) if path.is_file() else {}
        return cls(frozenset(stop_token_ids(serving)), frozenset(stop_strings(serving)))

    def __or__(self, other: Ends) -> Ends:
        return Ends(self.token_ids | other.token_ids, self.strings | other.strings)


class Loader:
    """Loads versions that aliases name, and unloads versions that no alias names and no request uses."""

    def __init__(self, cache: AdapterCache, engine: Engine, traffic: Traffic, retry_seconds: float) -> None:
        self._cache = cache
        self._engine = engine
        self._traffic = traffic
        self._retry_seconds = retry_seconds
        self._loaded: set[tuple[str, int]] = set()
        self.ends: dict[str, Ends] = {}
        """By adapter."""
        self._failures: dict[tuple[str, int], _Failure] = {}

    async def load(self, name: str, version: int, digest: str) -> bool:
        """Make the engine answer to `name@version`; False where that fails, with retries at growing intervals."""
        which = (name, version)
        if which in self._loaded:
            return True
        failure = self._failures.get(which)
        if failure and time.monotonic() < failure.again_at:
            return False
        try:
            with metrics.LOAD_SECONDS.labels(name).time():
                folder = await asyncio.to_thread(self._cache.fetch, name, version, digest=digest)
                await self._engine.load(f"{name}@{version}", str(folder))
        except LoraparError as error:
            self._failed(which, str(error))
            return False
        self._failures.pop(which, None)
        self._loaded.add(which)
        self.ends[name] = self.ends.get(name, Ends()) | Ends.of(folder)
        logger.info("%s@%d is loaded", name, version)
        await self._count_slots()
        return True

    async def release(self, name: str, led: frozenset[int], spare: int) -> None:
        """Unload the versions of `name` that are not in `led` and answer no request now; keep `spare` on disk."""
        for which in [which for which in self._loaded if which[0] == name and which[1] not in led]:
            model = f"{which[0]}@{which[1]}"
            if not self._traffic.idle(model):
                continue
            try:
                await self._engine.unload(model)
            except LoraparError as error:
                logger.warning("%s stays loaded: %s", model, error)
                continue
            self._loaded.discard(which)
            logger.info("%s is unloaded", model)
            await self._count_slots()
        kept = led | {version for loaded, version in self._loaded if loaded == name}
        try:
            # Keep also those that clients requested by version: the engine may read their files again at any time.
            models = [model.rpartition("@") for model in await self._engine.loaded()]
        except LoraparError as error:
            logger.warning("%s: no downloaded version is removed: %s", name, error)
            return
        kept |= {int(version) for loaded, _, version in models if loaded == name and version.isdigit()}
        await asyncio.to_thread(self._cache.prune, name, kept, spare)

    async def _count_slots(self) -> None:
        taken = await self._engine.slots_taken()
        if taken is not None:
            metrics.ENGINE_ADAPTERS.set(taken)

    def _failed(self, which: tuple[str, int], message: str) -> None:
        metrics.LOAD_FAILURES.labels(which[0]).inc()
        before = self._failures.get(which)
        attempts = before.attempts + 1 if before else 1
        wait = min(self._retry_seconds * 2 ** min(attempts - 1, 10), _LONGEST_WAIT_SECONDS)
        self._failures[which] = _Failure(attempts, message, time.monotonic() + wait)
        if before is None or before.message != message:
            logger.error("%s@%d is not loaded, what was served before goes on: %s", *which, message)
