"""Serve adapters of the registry with vLLM: it loads immutable versions, and a middleware resolves names and aliases.

Two extensions of a vLLM server, both in the server's process:

- `vllm_plugin` resolves `name@version` (vLLM's way of finding adapters that it has not loaded); - `middleware` runs
before vLLM's routes and decides which version a name or an alias means now.

Importable without torch, vLLM and prometheus_client: only modules that need them import them.
"""

from lorapar.serving.cache import AdapterCache
from lorapar.serving.command import ServerCommand, server_command
from lorapar.serving.gateway import gateway_manifest
from lorapar.serving.kserve import kserve_manifest
from lorapar.serving.settings import ServingSettings

__all__ = ["AdapterCache", "ServerCommand", "ServingSettings", "gateway_manifest", "kserve_manifest", "server_command"]
