"""Load and unload adapters in vLLM by its own endpoints, called inside the process and never over the network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import MutableMapping
from typing import Any

from lorapar.errors import UnreachableError
from lorapar.serving.asgi import App, Message, Scope, header, header_value

logger = logging.getLogger(f"vllm.{__name__}")
LOAD, UNLOAD, MODELS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"
# Also the two that SageMaker's hosting standard adds to a vLLM server for the same purpose.
_ADMIN_ENDINGS = ("/load_lora_adapter", "/unload_lora_adapter", "/adapters")


def is_admin(path: str) -> bool:
    """Whether a path changes what the server has loaded, whatever prefix it is mounted under."""
    path = path.rstrip("/")
    return path.endswith(_ADMIN_ENDINGS) or "/adapters/" in path


class EngineError(UnreachableError):
    """vLLM refused to load or unload; the message is vLLM's."""


class Engine:
    """The application behind the middleware, called like a client calls it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._outer: Any = None

    def meet(self, scope: Scope) -> None:
        """Take the application from a request: vLLM's routes read it there too."""
        if self._outer is None:
            self._outer = scope.get("app")

    @property
    def _state(self) -> Any:
        return getattr(self._outer, "state", None)

    @property
    def base_model(self) -> str:
        """vLLM's --model; empty where it is unknown."""
        arguments = getattr(self._state, "args", None)
        return str(getattr(arguments, "model", "") or "")

    @property
    def revision(self) -> str | None:
        """vLLM's --revision; None where it has none."""
        arguments = getattr(self._state, "args", None)
        return getattr(arguments, "revision", None)

    def argument(self, name: str) -> Any:
        """An argument of vLLM's command line; None where it is unknown."""
        return getattr(getattr(self._state, "args", None), name, None)

    def lets_in(self, scope: Scope) -> bool:
        """Whether the caller has a valid key, or the server needs none."""
        scheme, _, given = (header_value(scope, "authorization") or "").partition(" ")
        keys = self.keys
        # In any case of letters (RFC 7235), as vLLM takes it.
        bearer = given if scheme.lower() == "bearer" else ""
        return not keys or any(secrets.compare_digest(_digest(bearer), _digest(key)) for key in keys)

    @property
    def keys(self) -> tuple[str, ...]:
        """API keys that vLLM requires of its clients; empty where it requires none."""
        arguments = getattr(self._state, "args", None)
        given = getattr(arguments, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
        return tuple(key for key in given if key)

    async def load(self, model: str, folder: str) -> None:
        """Load an adapter under an immutable name, unless it is loaded already. Raises EngineError."""
        if model in await self.loaded():
            return
        try:
            await self._post(LOAD, {"lora_name": model, "lora_path": folder})
        except EngineError:
            if model not in await self.loaded():  # else a client's request for this version was quicker
                raise

    async def unload(self, model: str) -> None:
        """Remove an adapter's name and free its slot; no running request may use it."""
        if model in await self.loaded():
            number = self._number(model)
            await self._post(UNLOAD, {"lora_name": model})
            await self._free(model, number)

    def _number(self, model: str) -> int | None:
        """An adapter's number inside the engine; None where vLLM does not give it."""
        models = getattr(self._state, "openai_serving_models", None)
        request = getattr(models, "lora_requests", {}).get(model)
        return getattr(request, "lora_int_id", None)

    async def _free(self, model: str, number: int | None) -> None:
        """Remove the weights from the engine too: vLLM 0.32's endpoint removes only the name (its issue 54839).

        The weights would keep their slot until another adapter needs it, and vLLM might then take the slot of one in
        use.
        """
        remove = getattr(getattr(self._state, "engine_client", None), "remove_lora", None)
        if number is None or remove is None:
            return
        try:
            await remove(number)
        except Exception as error:  # the name is removed, and only a slot is lost
            logger.warning("%s keeps its slot in the engine: %s", model, error)

    async def slots_taken(self) -> int | None:
        """The number of adapters whose weights the engine holds, named or not; None where it does not say."""
        listed = getattr(getattr(self._state, "engine_client", None), "list_loras", None)
        if listed is None:
            return None
        try:
            return len(await listed())
        except Exception as error:
            logger.warning("the engine does not say which adapters it holds: %s", error)
            return None

    async def loaded(self) -> frozenset[str]:
        """Every model name the server answers to."""
        status, body = await self._call("GET", MODELS, b"")
        if status != 200:
            raise EngineError(f"{MODELS}: the server answered {status}")
        return frozenset(str(card["id"]) for card in json.loads(body)["data"])

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        status, answer = await self._call("POST", path, json.dumps(body).encode())
        if status != 200:
            raise EngineError(f"{body['lora_name']}: {path} answered {status}: {_message(answer)}")

    async def _call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        status, parts = 0, bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts.extend(message.get("body", b""))

        await self._app(self._scope(method, path, len(body)), receive, send)
        return status, bytes(parts)

    def _scope(self, method: str, path: str, length: int) -> MutableMapping[str, Any]:
        headers = [header("host", "localhost"), header("content-type", "application/json")]
        headers.append(header("content-length", str(length)))
        if self.keys:
            headers.append(header("authorization", f"Bearer {self.keys[0]}"))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "state": {},
            "app": self._outer,
        }


def _message(answer: bytes) -> str:
    try:
        found = json.loads(answer)
        return str(found.get("error", {}).get("message") or found)
    except (ValueError, AttributeError):
        return answer.decode(errors="replace")[:200]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
