"""vLLM as a process of its own, for tests of its server: start it, wait until it takes requests, end all of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 480.0


class VllmProcess:
    """One server process on a port of this machine; its output lies in `log`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "vllm.log"
        self._process: subprocess.Popen[bytes] | None = None
        # vLLM 0.32 leaves its sockets behind, however it ends. In a folder with a short name: their paths are limited.
        self._temporary = tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True)

    def launch(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a command that serves on `port`."""
        Path(self._temporary.name).mkdir(exist_ok=True)
        own = {**environment, "TMPDIR": self._temporary.name}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=own, start_new_session=True)

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
            self.kill()
        self._temporary.cleanup()

    def kill(self) -> None:
        """End it with all its processes, at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        self._temporary.cleanup()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
