"""A real vLLM server on the CPU, started as `lorapar serve --print` says, for one base model and a registry."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.serving import ServerCommand

PYTHON = Path(__file__).resolve().parents[3] / ".venv-vllm" / "bin" / "python"
START_SECONDS = 480.0
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


class VllmServer:
    """One server process; its output lies in `log`."""

    def __init__(self, command: ServerCommand, folder: Path) -> None:
        self.port = _free_port()
        self.log = folder / "vllm.log"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str]) -> None:
        """Start it and wait until it takes requests."""
        self.launch(environment)
        self.wait_until_ready()

    def launch(self, environment: dict[str, str]) -> None:
        """Start it."""
        arguments = [str(PYTHON), *self._command.arguments[1:], *CPU_ARGUMENTS, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                env={**os.environ, **CPU_ENVIRONMENT, **self._command.environment, **environment},
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it takes requests; raises RuntimeError with the end of its log where it does not."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM did not start:\n{self.log_text()[-4000:]}")
            time.sleep(0.25)

    def stop(self) -> None:
        """Stop it with all its processes."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def option(self, name: str) -> str:
        """The value of one of its arguments."""
        return self._command.arguments[self._command.arguments.index(name) + 1]

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

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

    def _healthy(self) -> bool:
        try:
            return self.get("/health").status == 200
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
