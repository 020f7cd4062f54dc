"""vLLM's server as the settings of rl.server name it, with the tiny model; started from the line that RL prints."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from lorapar.basemodel.load import model_folder
from lorapar.config import ModelConfig
from lorapar.training.rollout_server import ENVIRONMENT, server_arguments
from tests.integration.vllm_process import VllmProcess

# What a server takes for whatever a request does not say; numbers that would change every completion.
SPOILING = {"top_k": 3, "repetition_penalty": 1.7, "temperature": 0.1, "min_p": 0.2}


class RolloutServer(VllmProcess):
    """A server of one base; `sent`: adapters come over HTTP."""

    def __init__(self, model: ModelConfig, folder: Path, *, sent: bool) -> None:
        super().__init__(folder)
        self.address = f"http://127.0.0.1:{self.port}/v1"
        self._sent, self._copy = sent, folder / "base"
        shutil.copytree(model_folder(model), self._copy)
        path = self._copy / "generation_config.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**known, **SPOILING, "do_sample": True}))

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(self.port)]
        command += ["--model", str(self._copy), "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
        command += server_arguments(8, sent=self._sent)
        environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        self.launch(command, {**environment, **ENVIRONMENT, "OMP_NUM_THREADS": "1"})
        self.wait_until_ready()
