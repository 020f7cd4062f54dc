"""A real vLLM server on the CPU, started as `lorapar serve --print` says, for one base model and a registry."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.serving import ServerCommand
from tests.integration.vllm_process import VllmProcess

PYTHON = Path(__file__).resolve().parents[3] / ".venv-vllm" / "bin" / "python"
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
CPU_ARGUMENTS = ("--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16", "--enforce-eager")


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def adapter(self) -> str | None:
        """The version that answered, as the header says."""
        return self.headers.get("x-lorapar-adapter")

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of a completion."""
        return tuple(self.json["choices"][0]["token_ids"])

    @property
    def log_probs(self) -> tuple[float, ...]:
        """Of a completion's tokens."""
        return tuple(self.json["choices"][0]["logprobs"]["token_logprobs"])


class VllmServer(VllmProcess):
    """A server that `lorapar serve` has worked out, and the requests that tests send it."""

    def __init__(self, command: ServerCommand, folder: Path) -> None:
        super().__init__(folder)
        self._command = command

    def start(self, environment: dict[str, str]) -> None:
        """Start it and wait until it takes requests."""
        self.begin(environment)
        self.wait_until_ready()

    def begin(self, environment: dict[str, str]) -> None:
        """Start it."""
        arguments = [str(PYTHON), *self._command.arguments[1:], *CPU_ARGUMENTS, "--port", str(self.port)]
        self.launch(arguments, {**os.environ, **CPU_ENVIRONMENT, **self._command.environment, **environment})

    def option(self, name: str) -> str:
        """The value of one of its arguments; of one given twice the last, as vLLM takes it."""
        after = self._command.arguments[::-1]
        return after[after.index(name) - 1]

    def get(self, path: str) -> Reply:
        return self._call(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"))

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", **(headers or {})},
        )
        return self._call(request)

    def complete(self, model: str, prompt: str, **options: Any) -> Reply:
        """A greedy completion, with the number and the log-probability of each of its tokens."""
        headers = options.pop("headers", None)
        greedy = {"max_tokens": 8, "temperature": 0, "logprobs": 1, "return_token_ids": True}
        body = {"model": model, "prompt": prompt, **greedy, **options}
        return self.post("/v1/completions", body, headers)

    def _call(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())
