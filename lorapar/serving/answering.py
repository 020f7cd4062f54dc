"""Watch one answer on its way to the client: add its version as a header, see how it ends, keep its bytes."""

from __future__ import annotations

import time

from lorapar.serving import metrics
from lorapar.serving.asgi import Headers, Message, Receive, Send, header, without
from lorapar.serving.guard import Outcome
from lorapar.serving.routes import Served

ADAPTER_HEADER = "x-lorapar-adapter"
"""The header of every answer of an adapter with its version, as NAME@VERSION."""
_CLIENT_LEFT = 499
"""Not in the standard, but common in logs for a client that disconnected before the answer."""


class Answering:
    """One request and its answer."""

    def __init__(
        self, served: Served, receive: Receive, send: Send, *, kept_bytes: int = 0, headers: Headers = ()
    ) -> None:
        """`kept_bytes`: the longest answer to keep for inspection; 0: keep none. `headers`: additional headers."""
        self._served, self._headers = served, headers
        self._kept, self._kept_bytes = bytearray(), kept_bytes
        self._receive, self._send = receive, send
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self._status = 500  # the server's answer where the application raises before it starts one
        self._begun = False
        self._whole = False
        self._client_left = False

    async def receive(self) -> Message:
        """What the client sends; notes when it goes away."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._whole:
            self._client_left = True
        return message

    async def send(self, message: Message) -> None:
        """What the server sends, with the version in its header."""
        if message["type"] == "http.response.start":
            self._status, self._begun = message["status"], True
            ours = [name.decode("latin-1") for name, _ in self._headers]
            headers = [*without(message.get("headers", ()), *ours), *self._headers]
            if self._status != 404:  # vLLM has no such version, so no version answered
                headers.append(header(ADAPTER_HEADER, self._served.model))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            if self._first_byte is None and message.get("body"):
                self._first_byte = time.perf_counter()
            self._whole = not message.get("more_body", False)
            if len(self._kept) <= self._kept_bytes > 0:
                self._kept.extend(message.get("body", b""))
        await self._send(message)

    @property
    def answer(self) -> bytes | None:
        """The bytes of a complete, successful answer; None for others, and where it was not kept or is too long."""
        kept = self._whole and self._status == 200 and 0 < len(self._kept) <= self._kept_bytes
        return bytes(self._kept) if kept else None

    def finish(self) -> Outcome | None:
        """Count the request; returns its outcome, or None where the client disconnected before the end."""
        served = self._served
        status = _CLIENT_LEFT if self._client_left and not self._begun else self._status
        # A version that a client invented must not become a permanent label.
        version = str(served.version) if served.alias or status < 400 else ""
        metrics.REQUESTS.labels(served.name, version, served.alias or "", str(status)).inc()
        if self._client_left:
            return None
        failed = self._status >= 500 or not self._whole
        return Outcome(failed, (self._first_byte or time.perf_counter()) - self._began)
