"""The plugin that vLLM loads by itself (entry point `vllm.general_plugins`): adapters of the registry by version.

vLLM asks a resolver only once for a name that it has not loaded, and its prefix cache is keyed by that name. So the
resolver answers only immutable names: an alias would keep its first version for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

from lorapar.errors import BadInputError, LoraparError
from lorapar.registry import Registry, parse_reference
from lorapar.serving.answer_reward import AnswerReward
from lorapar.serving.base_identity import ServedBase
from lorapar.serving.cache import AdapterCache
from lorapar.serving.capturing import Capturing
from lorapar.serving.cpu_lora import patch_cpu_lora
from lorapar.serving.settings import REGISTRY, ServingSettings, settings_from
from lorapar.serving.vllm_version import installed_vllm, refuse_unsafe
from lorapar.store import open_store

logger = logging.getLogger(f"vllm.{__name__}")


class RegistryResolver:
    """A `LoRAResolver` of vLLM that answers NAME@VERSION, and nothing else."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._caches: dict[str, AdapterCache] = {}

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """The version, downloaded and verified, as vLLM's request; None otherwise, which vLLM answers with 404."""
        try:
            reference = parse_reference(lora_name)
        except BadInputError:
            return None  # every unknown model name comes here; most belong to no adapter
        if reference.version is None or (self._settings.names and reference.name not in self._settings.names):
            return None
        cache = self._cache(base_model_name)
        try:
            folder = await asyncio.to_thread(cache.fetch, reference.name, reference.version)
        except LoraparError as error:
            logger.warning("%s is not loaded: %s", lora_name, error)
            return None
        from vllm.lora.request import LoRARequest

        # vLLM replaces the id by its own number; 1 is only a valid placeholder.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))

    def _cache(self, base_model_name: str) -> AdapterCache:
        if base_model_name not in self._caches:
            name = self._settings.base_model or base_model_name
            base = ServedBase(name, self._settings.base_digest, base_model_name)
            registry = Registry(open_store(self._settings.registry))
            self._caches[base_model_name] = AdapterCache(registry, self._settings.cache, base)
        return self._caches[base_model_name]


def register() -> None:
    """vLLM calls this in each of its processes, some of which only compute, and possibly more than once."""
    patch_cpu_lora()
    if not os.environ.get(REGISTRY):
        return
    try:
        settings = settings_from()
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0").strip().lower() in ("1", "true"):  # a server's
            refuse_unsafe(installed_vllm())
            # Build once what the middleware builds later.
            AnswerReward.of(settings)
            Capturing.of(settings)
    except BadInputError as error:
        # Fail with one line, before serving: later uvicorn takes an error of the middleware for an application without
        # lifespan events, and goes on with a server that answers every request with 500.
        print(f"lorapar: {error}", file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    LoRAResolver.register(RegistryResolver)
    if "lorapar" not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver("lorapar", RegistryResolver(settings))
