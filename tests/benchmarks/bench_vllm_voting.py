"""Voting through vLLM against vLLM alone, on the same prompts in the same run: in the process, and over a server.

Run by `make bench-vllm` in the environment of `make vllm-env`, with the smallest real language model. The random tiny
model is compared too, without a bound: there the model costs nothing, and what is left is only what is not the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here; `make bench-vllm` runs this in its environment", allow_module_level=True)

# Read when vLLM is imported.
os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    HF_HUB_OFFLINE="1",
)

from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig, TeacherConfig, TeacherTemplate, VllmOptions
from lorapar.progress import Silent
from lorapar.records import Example
from lorapar.voting.endpoint_teacher import EndpointTeacher
from lorapar.voting.reader import encode
from lorapar.voting.teacher import render
from tests.benchmarks.figures import Figure, at_least
from tests.integration.vllm.server import NAME, Server

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
BASE = ModelConfig(dtype="bfloat16")
LEAST_RATIO = 0.9
TEMPLATE = TeacherTemplate(style="chat", label_words={"system1": "f", "system2": "m"})
REPEATS = 3
CONCURRENCY = 32
# What `vllm bench serve` runs; that command itself wants a package named vllm, and a CPU's is named vllm-cpu.
CLIENT = (
    "from argparse import ArgumentParser; from vllm.benchmarks.serve import add_cli_args, main; "
    "parser = ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)


def rows(count: int, start: int = 0) -> list[Example]:
    """Rows that no two repeats share, so that none is answered from the prefix cache more than the other."""
    return [
        Example(id=f"r{number}", question=f"{number} " * (number % 9 + 1), answer=str(number))
        for number in range(start, start + count)
    ]


def rate(count: int, work) -> float:
    """Rows a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


@pytest.mark.parametrize(("base", "count"), [(TINY, 1024), (BASE, 96)], ids=["nothing-but-overhead", "real-model"])
def test_voting_keeps_up_with_bare_generate(base: ModelConfig, count: int, figure: Callable[..., Figure]) -> None:
    from vllm import SamplingParams

    from lorapar.voting.vllm_teacher import VllmEngine, VllmTeacher

    engine, tokenizer = VllmEngine(base, VllmOptions(max_model_len=2048), Silent()), load_tokenizer(base)
    config = TeacherConfig(name="t", backend="vllm", dtype=base.dtype, template=TEMPLATE)
    teacher = VllmTeacher(config, engine, tokenizer, target="tiny", role_play=True)

    def bare(examples) -> None:
        texts = [
            tokenizer.apply_chat_template(
                list(render(TEMPLATE, row, "tiny", role_play=True).messages or ()),
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in examples
        ]
        ask = SamplingParams(temperature=0.0, max_tokens=1, logprobs=2)
        assert len(engine.llm.generate(texts, ask, use_tqdm=False)) == count

    list(teacher.votes(rows(16, 10**6)))
    bare_rates, our_rates = [], []
    for repeat in range(REPEATS):
        examples = rows(count, repeat * count)
        first, second = (bare_rates, bare), (our_rates, lambda rows: list(teacher.votes(rows)))
        for rates, work in (first, second) if repeat % 2 else (second, first):
            engine.llm.reset_prefix_cache()
            rates.append(rate(count, lambda work=work, examples=examples: work(examples)))
    engine.close()
    what = f"votes through vLLM against LLM.generate, {base.name}"
    bound = None if base is TINY else at_least(LEAST_RATIO)
    figure(what, max(bare_rates), max(our_rates), bound, unit="rows/s")


def test_the_endpoint_backend_keeps_a_server_as_busy_as_vllms_own_client(
    tmp_path: Path, figure: Callable[..., Figure]
) -> None:
    server = Server(BASE, tmp_path)
    try:
        server.start()
        count = 96
        options = {"concurrency": CONCURRENCY}
        config = TeacherConfig(
            name="t", backend="openai", endpoint=server.address, model=NAME, template=TEMPLATE, openai=options
        )
        teacher = EndpointTeacher(config, target="tiny", role_play=True)
        list(teacher.votes(rows(16, 10**6)))
        ours, theirs = [], []
        for repeat in range(REPEATS):
            examples = rows(count, repeat * count)
            ours.append(rate(count, lambda examples=examples: list(teacher.votes(examples))))
            theirs.append(own_client(server, rows(count, (REPEATS + repeat) * count), tmp_path))
        teacher.close()
    finally:
        server.stop()
    what = "votes from an endpoint against vLLM's own benchmark client"
    figure(what, max(theirs), max(ours), at_least(LEAST_RATIO), unit="requests/s")


def own_client(server: Server, examples: list[Example], folder: Path) -> float:
    """Requests a second of `vllm bench serve` on the same kind of prompts, one token each."""
    from lorapar.basemodel.load import model_folder

    tokenizer = load_tokenizer(BASE)
    choices = encode(tokenizer, [render(TEMPLATE, row, "tiny", role_play=True) for row in examples])
    data = folder / "prompts.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for choice in choices:
            file.write(json.dumps({"prompt": tokenizer.decode(choice.prompt), "output_tokens": 1}) + "\n")
    command = [sys.executable, "-c", CLIENT]
    command += [
        "--backend",
        "openai",
        "--base-url",
        server.address.removesuffix("/v1"),
        "--endpoint",
        "/v1/completions",
    ]
    command += ["--model", NAME, "--tokenizer", str(model_folder(BASE)), "--dataset-name", "custom"]
    command += ["--dataset-path", str(data), "--custom-output-len", "1", "--skip-chat-template"]
    command += ["--num-prompts", str(len(examples)), "--max-concurrency", str(CONCURRENCY), "--request-rate", "inf"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "bench.json", "--disable-tqdm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((folder / "bench.json").read_text())
    assert result["completed"] == len(examples)
    return float(result["request_throughput"])
