"""The plugin that vLLM loads by itself (entry point `vllm.general_plugins`): adapters of the registry by version.

vLLM asks a resolver once for a name it has not loaded, and never again; its prefix cache is keyed by that name. So
only immutable names are answered: an alias that reached this place would go on answering with its first version.
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
        """vLLM's request for the version, downloaded and verified; None, which it answers with 404, otherwise."""
        try:
            reference = parse_reference(lora_name)
        except BadInputError:
            return None  # any model name that no resolver knows comes here; most of them are no adapter's
        if reference.version is None or (self._settings.names and reference.name not in self._settings.names):
            return None
        cache = self._cache(base_model_name)
        try:
            folder = await asyncio.to_thread(cache.fetch, reference.name, reference.version)
        except LoraparError as error:
            logger.warning("%s is not loaded: %s", lora_name, error)
            return None
        from vllm.lora.request import LoRARequest

        # vLLM replaces the id by a number of its own; 1 is only a valid one.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))

    def _cache(self, base_model_name: str) -> AdapterCache:
        if base_model_name not in self._caches:
            name = self._settings.base_model or base_model_name
            base = ServedBase(name, self._settings.base_digest, base_model_name)
            registry = Registry(open_store(self._settings.registry))
            self._caches[base_model_name] = AdapterCache(registry, self._settings.cache, base)
        return self._caches[base_model_name]


def register() -> None:
    """Called by vLLM in each of its processes, some of which only compute; may be called more than once."""
    patch_cpu_lora()
    if not os.environ.get(REGISTRY):
        return
    try:
        settings = settings_from()
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0").strip().lower() in ("1", "true"):  # a server's
            refuse_unsafe(installed_vllm())
            # What the middleware will make of them, made once.
            AnswerReward.of(settings)
            Capturing.of(settings)
    except BadInputError as error:
        # One line, and before anything is served: later uvicorn takes what the middleware raises for an application
        # without a life of its own, and goes on with a server that answers every request with 500.
        print(f"lorapar: {error}", file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    LoRAResolver.register(RegistryResolver)
    if "lorapar" not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver("lorapar", RegistryResolver(settings))
