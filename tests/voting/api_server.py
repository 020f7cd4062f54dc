"""A small server that speaks the OpenAI API over real HTTP, and fails the way real ones do: for tests of endpoints."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "served"
Habit = Callable[["Api", str, Mapping[str, str], dict[str, Any]], tuple[int, Any, dict[str, str]] | None]


@dataclass
class Api:
    """What the server does. `failures` are taken one a request, in order, before anything is answered."""

    opinion: Callable[[str], int] = lambda text: len(text) // 4 % 2
    """Which of two words it answers to a prompt: 0 or 1."""
    honours: tuple[str, ...] = ("structured_outputs", "response_format")
    """Restrictions it knows; it ignores others, or refuses them where `strict` is set."""
    strict: bool = False
    failures: list[str] = field(default_factory=list)
    always: str = ""
    """A failure that every request about a row meets, once the probe is over."""
    key: str = ""
    habit: Habit | None = None
    """What it does of its own with a request, as status, body (text or JSON) and headers; None: what others do."""
    prefix: str = "/v1"
    """The only place where it has an API."""
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    seconds: float = 0.0
    """How long an answer takes."""
    address: str = ""
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, word: str) -> list[dict[str, Any]]:
        """Bodies that mention a word: the requests about rows, without the probe."""
        return [body for body in self.bodies if word in json.dumps(body)]

    def enter(self, body: dict[str, Any]) -> str:
        """Note a request; returns the failure it is to meet."""
        with self._lock:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            if "zqxamber" in json.dumps(body):
                return ""
            return self.failures.pop(0) if self.failures else self.always

    def leave(self) -> None:
        """A request is over."""
        with self._lock:
            self._open -= 1

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        restrictions = [name for name in ("structured_outputs", "response_format") if name in body]
        if self.strict and any(name not in self.honours for name in restrictions):
            return 400, {"error": {"message": f"unknown parameter {restrictions[0]}"}}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        text = self.reply(body, [name for name in restrictions if name in self.honours])
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        return 200, {"choices": [choice], "usage": {"total_tokens": 11}}

    def reply(self, body: dict[str, Any], honoured: list[str] | None = None) -> str:
        """The text of an answer, held to what is honoured: as far as nothing else is said, to all it knows."""
        honoured = list(self.honours) if honoured is None else honoured
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        place = self.opinion(prompt)
        if "structured_outputs" in honoured and "structured_outputs" in body:
            return str(body["structured_outputs"]["choice"][place])
        if "response_format" in honoured and "json_schema" in body.get("response_format", {}):
            schema = body["response_format"]["json_schema"]["schema"]
            return json.dumps({"label": schema["properties"]["label"]["enum"][place]})
        return "Hello! How can I help you?"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def do_GET(self) -> None:
        there = self.path.startswith(f"{self.api.prefix}/models")
        self._send(*((200, {"data": [{"id": MODEL}]}) if there else (404, {"error": "not found"})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.api.key and self.headers.get("Authorization") != f"Bearer {self.api.key}":
            return self._send(401, {"error": {"message": "Incorrect API key provided"}})
        self.api.paths.append(self.path)
        if self.path.partition("?")[0] not in (
            f"{self.api.prefix}{end}" for end in ("/chat/completions", "/completions")
        ):
            own = self.api.habit(self.api, self.path, self.headers, body) if self.api.habit else None
            return self._send(*(own or (404, {"error": "not found"})))
        failure = self.api.enter(body)
        try:
            time.sleep(self.api.seconds)
            if failure:
                return self._fail(failure, body)
            own = self.api.habit(self.api, self.path, self.headers, body) if self.api.habit else None
            if own is not None:
                return self._send(*own)
            return self._send(*self.api.answer(body))
        finally:
            self.api.leave()

    def _fail(self, failure: str, body: dict[str, Any]) -> None:
        kind, _, detail = failure.partition(" ")
        if kind.isdigit():
            headers = {"Retry-After": detail} if detail else {}
            return self._send(int(kind), {"error": {"message": "busy"}}, headers)
        self.close_connection = True
        if kind == "hang":
            time.sleep(float(detail))
        elif kind == "truncated":
            data = json.dumps(self.api.answer(body)[1]).encode()
            self._head(200, len(data))
            self.wfile.write(data[: len(data) // 2])
        elif kind == "garbled":
            self._head(200, 9)
            self.wfile.write(b'{"choices')
        elif kind == "mangled":
            self._head(200, 9, {"Content-Encoding": "gzip"})
            self.wfile.write(b"not gzip!")
        elif kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        elif kind == "shapeless":
            self._send(200, {"object": "something else"})
        else:
            raise AssertionError(f"no failure is called {failure}")
        return None

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self._head(status, len(data), headers)
        self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """A client that goes away in mid-answer is no news."""
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serving(**settings: Any) -> Iterator[Api]:
    """A running server on a free port; its `address` ends in /v1."""
    api = Api(**settings)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
