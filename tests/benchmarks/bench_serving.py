"""What serving from the registry costs, against vLLM alone: the first answer of an adapter, and all later ones.

Run by hand: `python -m pytest tests/benchmarks/bench_serving.py -s`, after `make vllm-env`. Two real vLLM servers with
one base model stand side by side on this machine, one with lorapar in it and one without; they are asked in turns, so
that a busy machine is busy for both. The adapter has 44 MB, the registry lies in a real S3 server.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lorapar.basemodel import model_folder
from lorapar.config import ModelConfig
from lorapar.registry import Registry
from lorapar.serving import ServerCommand, server_command
from lorapar.store import open_store
from tests.benchmarks.figures import Figure, at_most
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server, weed_program
from tests.integration.serving.vllm_server import PYTHON, Reply, VllmServer

BASE, RANK, ADAPTERS = "bench/base", 128, 5
PROMPT = "The same question from everybody, which is long enough to need a few tokens."
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class Servers:
    """Both servers, and the folders of the adapters by version."""

    ours: VllmServer
    plain: VllmServer
    made: dict[int, Path]
    bucket: Any
    """A bare boto3 client of the registry's bucket."""


def make_base(folder: Path) -> Path:
    """A random Llama of 30 million parameters, with the tokenizer of the tiny model."""
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    tokenizer = AutoTokenizer.from_pretrained(model_folder(ModelConfig(name="builtin:tiny")))
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    settings = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), settings)
    model.peft_config["default"].base_model_name_or_path = BASE
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if not PYTHON.exists() or weed_program() is None:
        pytest.skip("needs vLLM and an S3 server: make vllm-env")
    root = tmp_path_factory.mktemp("bench")
    base = make_base(root / "base")
    made = {number: make_adapter(base, root / f"made{number}", number) for number in range(1, ADAPTERS + 1)}
    storage = S3Server(root / "s3")
    with pytest.MonkeyPatch.context() as patch:
        storage.start()
        use_identity(patch, storage.environment())
        storage.client().create_bucket(Bucket="bench")
        registry = Registry(open_store("s3://bench/registry"))
        for number, folder in made.items():
            assert registry.publish("task", folder).number == number
        registry.set_alias("task", "production", 1)
        command = server_command(registry, ["task"], model=base)
        (root / "ours").mkdir(), (root / "plain").mkdir()
        ours, plain = VllmServer(command, root / "ours"), VllmServer(without_lorapar(command, made[1]), root / "plain")
        try:
            ours.begin({"LORAPAR_SERVING_CACHE": str(root / "cache")})
            plain.begin({})
            ours.wait_until_ready()
            plain.wait_until_ready()
            yield Servers(ours, plain, made, storage.client())
        finally:
            ours.stop()
            plain.stop()
            storage.kill()


def without_lorapar(command: ServerCommand, adapter: Path) -> ServerCommand:
    """The same server with a static adapter, and nothing of ours in it."""
    arguments = command.arguments[: command.arguments.index("--middleware")]
    static = ("--lora-modules", f"task={adapter}")
    return ServerCommand(
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_PLUGINS": "", "LORAPAR_REGISTRY": ""}, (*arguments, *static)
    )


def timed(work: Callable[[], Reply]) -> float:
    start = time.perf_counter()
    assert work().status == 200
    return time.perf_counter() - start


def test_first_answer_of_an_adapter_that_is_not_loaded(
    servers: Servers, tmp_path: Path, figure: Callable[..., Figure]
) -> None:
    ours, download, plain = [], [], []
    for number in range(2, ADAPTERS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        start = time.perf_counter()
        for file in FILES:
            servers.bucket.download_file("bench", f"registry/adapters/task/{number}/{file}", str(folder / file))
        download.append(time.perf_counter() - start)
        body = {"lora_name": f"local{number}", "lora_path": str(folder)}
        loading = timed(lambda body=body: servers.plain.post("/v1/load_lora_adapter", body))
        plain.append(loading + timed(lambda name=f"local{number}": servers.plain.complete(name, PROMPT)))
        ours.append(timed(lambda name=f"task@{number}": servers.ours.complete(name, PROMPT)))
    size = sum((servers.made[1] / file).stat().st_size for file in FILES)
    bare, local = statistics.median(download), statistics.median(plain)
    what = (
        f"first answer of an adapter of {size / 1e6:.0f} MB against the bare download and vLLM's load from local disk"
    )
    figure(what, bare + local, statistics.median(ours), at_most(1.2))


def test_steady_state(servers: Servers, figure: Callable[..., Figure]) -> None:
    def round_of(server: VllmServer) -> float:
        with ThreadPoolExecutor(8) as pool:
            start = time.perf_counter()
            replies = list(pool.map(lambda _: server.complete("task", PROMPT, max_tokens=16), range(8)))
            assert all(reply.status == 200 for reply in replies)
            return time.perf_counter() - start

    round_of(servers.ours), round_of(servers.plain)
    ours, plain = [], []
    for turn in range(6):  # who goes first changes, so that a slow moment of the machine hits both
        for server, times in [(servers.ours, ours), (servers.plain, plain)][:: 1 if turn % 2 else -1]:
            times.append(round_of(server))
    print(f"\nrounds with lorapar {[round(one, 3) for one in ours]}, without {[round(one, 3) for one in plain]}")
    with_us, static = min(ours), min(plain)  # the rounds that the rest of the machine disturbed least
    figure("8 requests of 8 clients against vLLM with a static adapter", static, with_us, at_most(1.02))
