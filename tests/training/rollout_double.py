"""A vLLM server's part in RL, in this process: it samples from a real model with the adapters that it is sent.

What is asked and answered has vLLM's own names; `tests/integration/vllm/test_rollout_server.py` does the same with the
real one. It also forgets, as a server does that was started anew, goes away, is busy, and serves another base or none.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from lorapar.adapter import load_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig

BASE = "the-base"
SENT = "/v1/lorapar/rollouts/"


class RolloutDouble:
    """The server; `address` is what rl.server.endpoint is."""

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        self.adapters: dict[str, Any] = {}
        self.history: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.forgets_after: int | None = None
        """Completions after which all adapters are forgotten, once."""
        self.gone = False
        self.longest = 4096
        self.takes_adapters = self.processed = self.has_base = True
        self.key = ""
        """That GET requests must carry."""
        self.busy: set[str] = set()
        """Methods that are answered with 503, once each."""
        self.before: Callable[[dict[str, Any]], None] = lambda body: None
        """Called with what a completion is asked by; the connection breaks where it raises ConnectionError."""
        self._lock = threading.Lock()
        self._base = load_model(model).eval()
        handler = type("Handler", (_Handler,), {"double": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()

    def take(self, name: str, body: bytes) -> None:
        """Load an adapter that was sent."""
        config, _, weights = body.partition(b"\n")
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "adapter_config.json").write_bytes(config)
            (Path(place) / "adapter_model.safetensors").write_bytes(weights)
            with self._lock:
                self.adapters[name] = load_adapter(load_model(self._model), place, trainable=False).eval()
        self.history.append(f"load {name}")

    def forget(self, name: str) -> None:
        """Unload it."""
        self.adapters.pop(name, None)
        self.history.append(f"unload {name}")

    def cards(self) -> list[dict[str, Any]]:
        """As /v1/models lists them."""
        bases = [{"id": BASE, "parent": None, "max_model_len": self.longest}] * self.has_base
        return [*bases, *({"id": name, "parent": BASE} for name in self.adapters)]

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """One choice; None for a model that is not here."""
        with self._lock:
            if self.forgets_after is not None and len(self.asked) >= self.forgets_after:
                self.adapters, self.forgets_after = {}, None
                self.history.append("restart")
            self.asked.append(body)
            model = self._base if body["model"] == BASE else self.adapters.get(body["model"])
            if model is None:
                return None
            return self._sampled(model, body)

    def _sampled(self, model: Any, body: dict[str, Any]) -> dict[str, Any]:
        ids, numbers = list(body["prompt"]), torch.Generator().manual_seed(body.get("seed", 0))
        stops, tokens, found = set(body.get("stop_token_ids", ())), [], []
        for _ in range(body["max_tokens"]):
            raw = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            scores = raw / body["temperature"]
            if body["top_k"] == 1:
                scores = torch.where(scores == scores.max(), scores, -torch.inf)
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=numbers))
            found.append(float((scores if self.processed else raw).log_softmax(-1)[token]))
            tokens.append(token)
            ids.append(token)
            if token in stops:
                break
        choice: dict[str, Any] = {"token_ids": tokens, "logprobs": {"token_logprobs": found}, "finish_reason": "stop"}
        if "prompt_logprobs" in body:
            prompt = torch.tensor([body["prompt"]])
            numbers_of = model(input_ids=prompt).logits[0, :-1].float().log_softmax(-1)
            own = zip(body["prompt"][1:], numbers_of, strict=True)
            choice["prompt_logprobs"] = [None, *({str(one): {"logprob": float(row[one])}} for one, row in own)]
        return choice


class _Http(ThreadingHTTPServer):
    request_queue_size = 256
    """All completions of a step come at once."""


class _Handler(BaseHTTPRequestHandler):
    double: RolloutDouble
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.double.key and self.headers["authorization"] != f"Bearer {self.double.key}":
            self._answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self._answer(200, {"data": self.double.cards()})
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith(SENT) and self.double.takes_adapters:
            if self._is_free():
                self.double.take(self.path.removeprefix(SENT), body)
                self._answer(200, {})
        elif self.path == "/v1/completions":
            try:
                self.double.before(json.loads(body))
            except ConnectionError:
                self.close_connection = True
                return
            choice = self.double.complete(json.loads(body))
            if choice is None:
                self._answer(404, {"error": {"message": "The model does not exist.", "code": 404}})
            else:
                self._answer(200, {"choices": [choice]})
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_DELETE(self) -> None:
        if self._is_free():
            self.double.forget(self.path.removeprefix(SENT))
            self._answer(200, {})

    def _is_free(self) -> bool:
        if self.command not in self.double.busy:
            return True
        self.double.busy.remove(self.command)
        self._answer(503, {"detail": "busy"})
        return False

    def _answer(self, status: int, value: Any) -> None:
        if self.double.gone:
            self.close_connection = True
            return
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
