"""Follow aliases: load the versions that they name, then switch, then unload the earlier versions."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from contextlib import suppress
from dataclasses import replace

from lorapar.errors import IntegrityError, LoraparError, StaleError
from lorapar.registry import CANDIDATE, PRODUCTION, AliasRecord, Reference, Registry
from lorapar.serving import metrics
from lorapar.serving.guard import CanaryGuard, Outcome
from lorapar.serving.loader import Ends, Loader
from lorapar.serving.routes import Canary, Routes, Served
from lorapar.serving.settings import ServingSettings
from lorapar.serving.verdicts import VerdictWatch

logger = logging.getLogger(f"vllm.{__name__}")


class AliasFollower:
    """Keeps `routes` up to date with the registry; while the registry does not answer, they stay unchanged."""

    def __init__(self, settings: ServingSettings, registry: Registry, loader: Loader) -> None:
        self.routes = Routes()
        self.synced = asyncio.Event()
        """Set after the first look at the aliases, successful or not."""
        self._settings = settings
        self._registry = registry
        self._loader = loader
        self._verdicts = VerdictWatch(registry)
        self._guards: dict[tuple[str, int, int], CanaryGuard] = {}
        self._ended: dict[tuple[str, int], str] = {}
        self._returning: set[asyncio.Task[None]] = set()

    def ends(self, name: str) -> Ends:
        """What ends this adapter's answers and vLLM does not know by itself."""
        return self._loader.ends.get(name, Ends())

    async def run(self) -> None:
        """Look repeatedly until cancelled; a bug in one look must not end the others."""
        while True:
            try:
                await self.sync()
            except Exception:
                logger.exception("following aliases failed; the routes stay as they are")
            self.synced.set()
            await asyncio.sleep(self._settings.poll_seconds)

    async def sync(self) -> None:
        """Look once at every alias, each adapter separately."""
        await asyncio.gather(*(self._sync_adapter(name) for name in sorted(self._settings.names)))

    async def _sync_adapter(self, name: str) -> None:
        followed = [reference for reference in self._settings.references if reference.name == name]
        damaged: list[LoraparError] = []
        try:
            records = await asyncio.to_thread(self._read, [*followed, Reference(name, alias=CANDIDATE)], damaged)
        except LoraparError as error:
            metrics.SYNC_FAILURES.labels(name).inc()
            logger.warning("%s: aliases stay as they are: %s", name, error)
            return
        for damage in damaged:
            metrics.SYNC_FAILURES.labels(name).inc()
            logger.warning("%s: an alias stays as it is: %s", name, damage)
        if not damaged:
            metrics.LAST_SYNC.labels(name).set(time.time())
        for reference in followed:
            if reference in records:
                await self._follow(reference, records[reference])
        if Reference(name, alias=PRODUCTION) in followed:
            await self._follow_canary(name, records.get(Reference(name, alias=CANDIDATE)))
        await self._loader.release(name, self.routes.versions(name), self._settings.cache_versions)
        await asyncio.to_thread(self._verdicts.show, records)

    def _read(self, references: list[Reference], damaged: list[LoraparError]) -> dict[Reference, AliasRecord]:
        """The aliases in the registry now; a missing or `damaged` alias is left out, and so keeps its version."""
        found: dict[Reference, AliasRecord] = {}
        for reference in references:
            try:
                record = self._registry.read_alias(reference.name, reference.alias or PRODUCTION)
            except IntegrityError as error:  # skips only this alias: a rollback of another one must still take effect
                damaged.append(error)
                continue
            if record is not None:
                found[reference] = record
        return found

    async def _follow(self, reference: Reference, record: AliasRecord) -> None:
        before = self.routes.aliases.get(reference)
        if before == record.version or not await self._loader.load(reference.name, record.version, record.digest):
            return
        self.routes = replace(self.routes, aliases={**self.routes.aliases, reference: record.version})
        metrics.ALIAS_VERSION.labels(reference.name, reference.alias).set(record.version)
        logger.info("%s now means version %d, before %s", reference, record.version, before)

    async def _follow_canary(self, name: str, record: AliasRecord | None) -> None:
        canary = None
        if record is not None and await self._canary_may_run(name, record):
            canary = Canary(record.version, record.share_percent)
        others = {other: running for other, running in self.routes.canaries.items() if other != name}
        self.routes = replace(self.routes, canaries={**others, name: canary} if canary else others)
        metrics.CANARY_SHARE.labels(name).set(canary.share_percent if canary else 0.0)

    async def _canary_may_run(self, name: str, record: AliasRecord) -> bool:
        which = (name, record.version)
        if record.share_percent == 0:
            self._ended.pop(which, None)
            self._forget_outcomes(name)  # a restarted canary is judged by its own requests
            return False
        if which in self._ended:
            await self._write_return(name, record.version)
            return False
        if self.routes.aliases.get(Reference(name, alias=PRODUCTION)) in (None, record.version):
            return False
        return await self._loader.load(name, record.version, record.digest)

    def judge(self, served: Served, seen: Outcome | float) -> None:
        """Count one request for the bare name, or the reward of its answer; ends the canary if its guard decides so."""
        canary = self.routes.canaries.get(served.name)
        production = self.routes.aliases.get(Reference(served.name, alias=PRODUCTION))
        if canary is None or production is None or served.version not in (canary.version, production):
            return
        guard = self._guards.setdefault((served.name, canary.version, production), CanaryGuard())
        arm = guard.candidate if served.version == canary.version else guard.production
        if isinstance(seen, Outcome):
            arm.outcomes.append(seen)
        else:
            arm.rewards.append(seen)
            side = CANDIDATE if arm is guard.candidate else PRODUCTION
            metrics.CANARY_REWARD.labels(served.name, side).set(statistics.fmean(arm.rewards))
        if reason := guard.verdict(self._settings):
            self._end_canary(served.name, canary.version, reason)

    def _end_canary(self, name: str, version: int, reason: str) -> None:
        logger.error("%s@%d gets no more requests for %s: %s", name, version, name, reason)
        self._ended[name, version] = reason
        others = {other: running for other, running in self.routes.canaries.items() if other != name}
        self.routes = replace(self.routes, canaries=others)
        self._forget_outcomes(name)
        metrics.CANARY_RETURNS.labels(name).inc()
        metrics.CANARY_SHARE.labels(name).set(0.0)
        task = asyncio.create_task(self._write_return(name, version))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def _forget_outcomes(self, name: str) -> None:
        self._guards = {which: guard for which, guard in self._guards.items() if which[0] != name}

    async def _write_return(self, name: str, version: int) -> None:
        """End the canary's share for every replica; with a read-only role each replica ends its own."""
        reason = f"canary ended by a replica: {self._ended[name, version]}"
        try:
            with suppress(StaleError):  # the alias names another version by now, which has its own share
                await asyncio.to_thread(self._registry.set_share, name, CANDIDATE, version, 0.0, reason=reason)
        except LoraparError as error:
            logger.warning("%s@%d: its share could not be taken back in the registry: %s", name, version, error)
