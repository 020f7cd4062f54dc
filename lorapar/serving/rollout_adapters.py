"""The ASGI middleware of a vLLM server that samples completions for RL: training sends it the adapter of each step.

    --middleware lorapar.serving.rollout_adapters.RolloutAdapters

POST /v1/lorapar/rollouts/NAME loads an adapter: its adapter_config.json in one line, then adapter_model.safetensors.
DELETE unloads it, GET /v1/lorapar/rollouts describes the server. Everybody who may request completions may do so.
vLLM's own endpoints, which would load any path of the server's disk, are closed.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lorapar import __version__
from lorapar.serving.asgi import (
    App,
    Receive,
    Scope,
    Send,
    answer_error,
    answer_json,
    header_value,
    whole_body,
)
from lorapar.serving.engine import Engine, EngineError, is_admin

_PATH = re.compile(r"/v1/lorapar/rollouts(?:/(?P<name>[^/]*))?/?")
_NAME = re.compile(r"lorapar-[0-9a-f]{8}-\d{1,9}")
MOST_BYTES = 8 * 2**30
"""The size of one adapter."""
MOST_ADAPTERS = 16
"""Adapters at once; for a further one the oldest is removed, such as that of a killed training."""
_SHOWN_ARGUMENTS = ("model", "max_lora_rank", "max_loras", "max_model_len", "logprobs_mode", "enable_lora")


class RolloutAdapters:
    """The class that `--middleware` names; vLLM makes one instance and calls it for every connection."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.engine = Engine(app)
        self._held: dict[str, Path] = {}
        """Folders of the loaded adapters, oldest first."""
        self._root = tempfile.TemporaryDirectory(prefix="lorapar-rollouts-", ignore_cleanup_errors=True)
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, or the life of the server."""
        self.engine.meet(scope)
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif found := _PATH.fullmatch(scope["path"]):
            await self._own(scope, receive, send, found["name"] or "")
        elif is_admin(scope["path"]):
            await answer_error(send, 403, f"{scope['path']} is closed: adapters are sent to /v1/lorapar/rollouts/NAME")
        else:
            await self.app(scope, receive, send)

    async def _own(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        method = scope["method"]
        if not self.engine.lets_in(scope):
            await answer_error(send, 401, "Unauthorized")
        elif method == "GET" and not name:
            await answer_json(send, 200, self._description())
        elif method not in ("POST", "DELETE") or not _NAME.fullmatch(name):
            await answer_error(send, 400, f"{method} {scope['path']}: send an adapter as POST lorapar-XXXXXXXX-STEP")
        else:
            try:
                await (self._take(scope, receive, name) if method == "POST" else self._forget(name))
            except (EngineError, ValueError) as error:
                await answer_error(send, 400, str(error))
            else:
                await answer_json(send, 200, {"adapters": list(self._held)})

    async def _take(self, scope: Scope, receive: Receive, name: str) -> None:
        """Write the files of an adapter and let the engine load them, unless it has that adapter already."""
        length = header_value(scope, "content-length") or ""
        if not length.isdigit() or int(length) > MOST_BYTES:
            raise ValueError(f"an adapter is sent with its length, and of at most {MOST_BYTES / 2**30:.0f} GiB")
        body = await whole_body(receive)
        if body is None:
            raise ValueError("the client went away")
        config, newline, weights = body.partition(b"\n")
        if not newline or not isinstance(json.loads(config), dict):
            raise ValueError("an adapter is sent as its configuration in one line of JSON, then its safetensors file")
        async with self._turn:
            if name in self._held:
                return
            while len(self._held) >= MOST_ADAPTERS:
                await self._drop(next(iter(self._held)))
            folder = Path(self._root.name) / name
            await asyncio.to_thread(_write, folder, config, weights)
            try:
                await self.engine.load(name, str(folder))
            except EngineError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._held[name] = folder

    async def _forget(self, name: str) -> None:
        async with self._turn:
            if name in self._held:
                await self._drop(name)

    async def _drop(self, name: str) -> None:
        await self.engine.unload(name)
        shutil.rmtree(self._held.pop(name), ignore_errors=True)

    def _description(self) -> dict[str, Any]:
        """GET's answer about the server."""
        arguments = {name: self.engine.argument(name) for name in _SHOWN_ARGUMENTS}
        return {"lorapar": __version__, "adapters": list(self._held), **arguments}


def _write(folder: Path, config: bytes, weights: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
