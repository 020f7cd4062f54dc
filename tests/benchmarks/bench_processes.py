"""SFT by two processes against one with two threads, same steps: tokens a second, and FSDP2's memory against DDP's.

Bounds: two processes at least as fast as one (of three runs each, by turns, the fastest); the peak resident memory of a
process with the base sharded at most 0.65 of that with a whole one, on a random model whose base dominates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.figures import Figure, at_least, at_most

SPEED = {
    **{"vocab_size": 300, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8},
    **{"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 1024},
}
MEMORY = {**SPEED, "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 24}
_MAKE = """
import sys, json, torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from lorapar.adapter import AdapterSettings, attach, lora_parameters, partition_elements, save_adapter, trainable_slice
from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig
folder = Path(sys.argv[1])
model = LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]), tie_word_embeddings=False))
model.save_pretrained(folder / "model")
load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(folder / "model")
adapted = attach(model, AdapterSettings(rank=4, alpha=8), seed=0)
save_adapter(adapted, folder / "adapter")
scores = {system: {name: torch.rand(trainable_slice(name, tensor, 4).shape)
          for name, tensor in lora_parameters(adapted).items()} for system in ("system1", "system2")}
shared = {"system1": 1.0, "system2": 1.0}
partition_elements(scores, theta=0.9, shared=shared).save(folder / "partition.safetensors", {})
"""
_TRAIN = """
import json, os, sys, torch
from pathlib import Path
import torch.distributed as dist
from lorapar.config import load_config
from lorapar.local.memory import peak_bytes
from lorapar.progress import Silent
from lorapar.ranks import Ranks
from lorapar.records import Example
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft
start, work, sharded = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "sharded"
if "RANK" in os.environ:
    dist.init_process_group("gloo")
rank = Ranks.here().rank
config = load_config(overrides=[f"model.name={start / 'model'}", "model.dtype=float32", *sys.argv[4:]])
for folder in (f"out-{rank}", "scratch"):
    (work / folder).mkdir(parents=True, exist_ok=True)
job = TrainingJob(model=config.model, prompts=config.prompts, seed=0, adapter=start / "adapter",
                  partition=start / "partition.safetensors", output=work / f"out-{rank}", scratch=work / "scratch",
                  progress=Silent(), sharded=sharded)
rows = [Example(id=f"w{n}", question=f"What is {n}?", answer="so " * 400) for n in range(16)]
made = train_sft(job, config.sft, system1=rows, system2=[])
(work / f"told-{rank}.json").write_text(json.dumps({"seconds": made["seconds"], "peak": peak_bytes()}))
os._exit(0)
"""


def child(command: list[str], threads: int) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def trained(start: Path, work: Path, processes: int, base: str, *overrides: str) -> list[dict[str, float]]:
    """What each process tells of one run of SFT."""
    work.mkdir()
    program = work / "train.py"
    program.write_text(_TRAIN)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["--log-dir", str(work / "logs")]
    child([*command, str(program), str(start), str(work), base, *overrides], threads=2 // processes)
    return [json.loads((work / f"told-{rank}.json").read_text()) for rank in range(processes)]


def made(folder: Path, shape: dict[str, int]) -> Path:
    child([sys.executable, "-c", _MAKE, str(folder), json.dumps(shape)], threads=2)
    return folder


def test_two_processes_are_as_fast_as_one_with_two_threads(tmp_path: Path, figure: Callable[..., Figure]) -> None:
    start = made(tmp_path / "start", SPEED)
    steps = ("sft.batch_size=4", "sft.gradient_accumulation=2", "sft.max_length=256", "sft.max_steps=4")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(3):
        for processes in seconds:
            summaries = trained(start, tmp_path / f"{processes}-{turn}", processes, "whole", *steps)
            seconds[processes].append(summaries[0]["seconds"])
    tokens = 4 * 8 * 256
    speed = {processes: tokens / min(taken) for processes, taken in seconds.items()}
    figure("SFT by two processes against one with two threads", speed[1], speed[2], at_least(1), unit="tokens/s")


def test_a_sharded_base_takes_two_thirds_of_the_memory(tmp_path: Path, figure: Callable[..., Figure]) -> None:
    start = made(tmp_path / "start", MEMORY)
    steps = ("sft.batch_size=1", "sft.gradient_accumulation=2", "sft.max_length=64", "sft.max_steps=2")
    peaks = {
        base: max(one["peak"] for one in trained(start, tmp_path / base, 2, base, *steps))
        for base in ("whole", "sharded")
    }
    whole, sharded = (peaks[base] / 1e9 for base in ("whole", "sharded"))
    figure("peak of a process, base sharded against whole", whole, sharded, at_most(0.65), unit="GB")
