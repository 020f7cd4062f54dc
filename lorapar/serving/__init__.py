"""Hand adapters from the registry to vLLM: it loads immutable versions, a middleware turns names and aliases into them.

Two doors into a vLLM server, both in the server's own process:

- `vllm_plugin` answers `name@version` (vLLM's own way of finding adapters it has not loaded);
- `middleware` stands before vLLM's routes and decides which version a name or an alias means now.

Importable without torch, vLLM and prometheus_client, which only the modules that need them import.
"""

from lorapar.serving.cache import AdapterCache
from lorapar.serving.command import ServerCommand, server_command
from lorapar.serving.gateway import gateway_manifest
from lorapar.serving.kserve import kserve_manifest
from lorapar.serving.settings import ServingSettings

__all__ = ["AdapterCache", "ServerCommand", "ServingSettings", "gateway_manifest", "kserve_manifest", "server_command"]
