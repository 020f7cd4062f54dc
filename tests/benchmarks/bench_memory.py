"""Peak memory of SFT and RL on random bases, in several number formats, against what `plan` says of them on a CPU.

Each run is a process of its own, whose peak resident memory is read from the system. Aims: `plan` within 15% of each;
and the nf4 base's peak at most half of the bfloat16 base's weights plus what training needs besides.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lorapar.config import load_config
from lorapar.local.estimate import StageMemory, stage_memory
from tests.benchmarks.figures import at_most, within

_HEADS = {"max_position_embeddings": 1024, "num_attention_heads": 8, "num_key_value_heads": 4}
SHAPES = {
    "30M": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, **_HEADS},
    "130M": {"vocab_size": 49152, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, **_HEADS},
    "325M": {"vocab_size": 32000, "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 14, **_HEADS},
    "1.25B": {"vocab_size": 8192, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20, **_HEADS},
}
SMALL = ("30M", "130M", "325M")
CASES = [
    ("sft", "tiny", "none", "float32"),
    *(("sft", size, quantization, "bfloat16") for size in SHAPES for quantization in ("none", "nf4")),
    *(("sft", size, "none", "float32") for size in SMALL),
    *(("rl", size, "none", "bfloat16") for size in SMALL),
    *(("sft", size, "sharded", dtype) for size in ("130M", "325M") for dtype in ("bfloat16", "float32")),
    ("rl", "325M", "sharded", "bfloat16"),
]
RANKS = 2
pytestmark = pytest.mark.timeout(3000)
_MAKE = """
import sys, json, torch
from transformers import LlamaConfig, LlamaForCausalLM
from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig
torch.set_default_dtype(torch.bfloat16)
model = LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]), tie_word_embeddings=False))
model.save_pretrained(sys.argv[1])
load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(sys.argv[1])
"""
_START = """
import sys, torch
from pathlib import Path
from lorapar.adapter import AdapterSettings, attach, lora_parameters, partition_elements, save_adapter, trainable_slice
from lorapar.basemodel import load_skeleton, load_model
from lorapar.config import load_config
config = load_config(overrides=sys.argv[2:])
model = attach(load_model(config.model), AdapterSettings(rank=config.adapter.rank, alpha=16), seed=0)
folder = Path(sys.argv[1])
save_adapter(model, folder / "adapter")
generator = torch.Generator().manual_seed(1)
scores = {system: {name: torch.rand(trainable_slice(name, tensor, config.adapter.rank).shape, generator=generator)
          for name, tensor in lora_parameters(model).items()} for system in ("system1", "system2")}
shared = {"system1": 1.0, "system2": 1.0}
partition_elements(scores, theta=0.9, shared=shared).save(folder / "partition.safetensors", {})
"""
_TRAIN = """
import os, sys, json, torch
import torch.distributed as dist
from pathlib import Path
from lorapar.basemodel import load_tokenizer
from lorapar.config import load_config
from lorapar.local.memory import peak_bytes
from lorapar.ranks import Ranks
from lorapar.prompts import prompt_ids, prompt_messages
from lorapar.progress import Silent
from lorapar.records import Example
from lorapar.training.session import TrainingJob
from lorapar.training.rl import train_rl
from lorapar.training.sft import train_sft
start, work = Path(sys.argv[1]), Path(sys.argv[2])
config = load_config(overrides=sys.argv[4:])
if "RANK" in os.environ:
    dist.init_process_group("gloo")
rank = Ranks.here().rank
for folder in (f"out-{rank}", "scratch"):
    (work / folder).mkdir(parents=True, exist_ok=True)
job = TrainingJob(model=config.model, prompts=config.prompts, seed=0, adapter=start / "adapter",
                  partition=start / "partition.safetensors", output=work / f"out-{rank}", scratch=work / "scratch",
                  progress=Silent(), sharded=config.sharding == "fsdp2")
stage = sys.argv[3]
# Prompts of exactly rl.max_prompt_length tokens that differ from their first word on: equal ones are learned from once.
question = lambda n, length: f"{n}? What".ljust(length, "x")
asked = lambda length: Example(id="w", question=question(0, length), answer="so", reference="4")
tokenizer = load_tokenizer(config.model)
over = len(prompt_ids(tokenizer, prompt_messages(asked(100), "system2", config.prompts))) - 100
length = config.rl.max_prompt_length - over
rows = [Example(id=f"w{n}", question=question(n, length), answer="so " * 400, reference="4") for n in range(8)]
rows = {"sft": {"system1": rows, "system2": []}, "rl": {"system1": [], "system2": rows}}[stage]
{"sft": train_sft, "rl": train_rl}[stage](job, getattr(config, stage), **rows)
(work / f"told-{rank}.json").write_text(json.dumps({"peak": peak_bytes()}))
os._exit(0)
"""


def overrides(model: str | Path, held: str, dtype: str) -> list[str]:
    sharded = held == "sharded"
    return [
        *(f"model.name={model}", f"model.dtype={dtype}", "adapter.rank=8"),
        *((f"processes={RANKS}", "sharding=fsdp2") if sharded else (f"model.quantization={held}",)),
        "teachers=[{name: self, dtype: bfloat16}]",
        *("sft.batch_size=4", "sft.max_length=256", "sft.max_steps=2", "sft.gradient_accumulation=1"),
        *("rl.batch_size=8", "rl.num_generations=4", "rl.gradient_accumulation=1", "rl.max_steps=1"),
        *("rl.max_prompt_length=256", "rl.max_completion_length=48"),
    ]


def child(program: str, *arguments: str | Path) -> None:
    run([sys.executable, "-c", program], *arguments)


def run(command: list[str], *arguments: str | Path) -> None:
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def peak_of(work: Path, ranks: int, *arguments: str | Path) -> int:
    """Of training in so many processes, the largest peak of one."""
    program = work / "train.py"
    program.write_text(_TRAIN)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--log-dir={work}/logs"]
    run([sys.executable, *(launcher if ranks > 1 else []), str(program)], *arguments)
    return max(json.loads(path.read_text())["peak"] for path in work.glob("told-*.json"))


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Callable[[str], tuple[str | Path, Path]]:
    """A base by its size, and a folder with an adapter and a partition to begin with."""

    @cache
    def made(size: str) -> tuple[str | Path, Path]:
        folder = tmp_path_factory.mktemp(size)
        if size != "tiny":
            child(_MAKE, folder / "model", json.dumps(SHAPES[size]))
        model = "builtin:tiny" if size == "tiny" else folder / "model"
        child(_START, folder / "start", *overrides(model, "none", "bfloat16"))
        return model, folder / "start"

    return made


_peaks: dict[tuple[str, ...], tuple[int, StageMemory]] = {}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_plan_is_within_15_percent_of_the_peak(start, tmp_path, case, figure) -> None:
    stage, size, held, dtype = case
    model, folder = start(size)
    given = overrides(model, held, dtype)
    peak = peak_of(tmp_path, RANKS if held == "sharded" else 1, folder, tmp_path, stage, *given)
    planned = stage_memory(load_config(overrides=given), "cpu")[stage]
    _peaks[case] = peak, planned
    print(f"\n{planned.description}")
    what = f"memory that `plan` says, against the peak: {'-'.join(case)}"
    figure(what, peak / 1e9, planned.total_bytes / 1e9, within(0.15), unit="GB")


def test_nf4_takes_half_of_the_weights(figure) -> None:
    """After the runs above, of the largest base: of smaller ones the embedding and the head are too large a part."""
    wanted = [("sft", "1.25B", held, "bfloat16") for held in ("none", "nf4")]
    if any(case not in _peaks for case in wanted):
        pytest.skip("the runs above of the 1.25B base did not finish")
    full, planned = _peaks["sft", "1.25B", "none", "bfloat16"]
    small, _ = _peaks["sft", "1.25B", "nf4", "bfloat16"]
    bound = full - planned.weights // 2
    figure("peak of SFT, nf4 against bfloat16", full / 1e9, small / 1e9, at_most(bound / full), unit="GB")
