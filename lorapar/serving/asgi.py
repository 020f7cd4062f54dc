"""The parts of ASGI that the middleware needs: types, headers, whole bodies, JSON answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]


def header(name: str, value: str) -> tuple[bytes, bytes]:
    """A header in ASGI's form."""
    return name.lower().encode("latin-1"), value.encode("latin-1")


def header_value(scope: Scope, name: str) -> str | None:
    """The first header of that name."""
    wanted = name.lower().encode("latin-1")
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), None)


def header_values(scope: Scope, name: str) -> list[str]:
    """Every non-empty value of that header, also where a proxy joined several with commas."""
    wanted = name.lower().encode("latin-1")
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted]
    return [value for line in lines for one in line.split(",") if (value := one.strip())]


def without(headers: Headers, *names: str) -> list[tuple[bytes, bytes]]:
    """The headers except those named."""
    gone = {name.encode("latin-1") for name in names}
    return [(key, value) for key, value in headers if key.lower() not in gone]


async def whole_body(receive: Receive) -> bytes | None:
    """The body of a request; None where the client disconnected before sending all of it."""
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.extend(message.get("body", b""))
        if not message.get("more_body", False):
            return bytes(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns this body first, then further messages of the connection (a disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer_error(send: Send, status: int, message: str, headers: Headers | None = None) -> None:
    """An error in the form of OpenAI's API, as vLLM writes it."""
    kinds = {400: "BadRequestError", 403: "PermissionDeniedError", 404: "NotFoundError", 503: "ServiceUnavailableError"}
    body = {"error": {"message": message, "type": kinds.get(status, "Error"), "param": "model", "code": status}}
    await answer_json(send, status, body, headers)


async def answer_json(send: Send, status: int, value: Any, headers: Headers | None = None) -> None:
    """A whole JSON answer."""
    body = json.dumps(value).encode()
    own = [header("content-type", "application/json"), header("content-length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})
