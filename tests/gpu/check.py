"""`make gpu-check`: scoring, one SFT step and two GRPO steps at 7B shape on a GPU; dated figures go to docs/gpu.md.

In bfloat16, then on the same base in nf4, then with completions of vLLM: of an engine that sleeps while the adapter
learns, of one that does not, and of a server that takes the second half of the GPU. What cannot be measured on the
machine is named on the page with the reason. Bounds: all of it within 8 minutes, and vLLM samples at least 5 times the
tokens a second of transformers; what misses one is named on the page, and the exit code is 1.

The stages are the real ones, with the default settings, which are the paper's. The weights are random: speed and
memory do not depend on them, losses and rewards mean nothing. Needs 14 GB of disk for the model. The same code runs at
a tiny shape on the CPU in tests/gpu/test_check.py; at 7B shape it has not been run yet, for want of a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorapar.basemodel import load_tokenizer
from lorapar.basemodel.quiet import quiet
from lorapar.config import ModelConfig, RunConfig, load_config
from lorapar.local.single import StageOptions, run_single
from lorapar.progress import Silent
from lorapar.records import Example, write_records
from lorapar.stages.contract import stage_spec
from lorapar.store import seal
from lorapar.training.rollout_server import ENVIRONMENT, server_arguments
from lorapar.training.trainers import CarefulGRPOTrainer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}
SCORED_ROWS = 8
SFT_ROWS = 32
"""Rows of one optimiser step of SFT, as in the paper."""
SECONDS = 480.0
"""Bound of the whole check."""
TIMES_FASTER = 5.0
"""Bound of the tokens a second that vLLM samples, against transformers."""
_BY_TRANSFORMERS, _BY_VLLM = "bfloat16", "completions of vLLM"
"""Titles of the parts that are compared."""


@dataclass(frozen=True)
class Figure:
    """What one stage cost."""

    stage: str
    seconds: float
    """Everything, loading and hashing the weights included."""
    peak_bytes: int
    """Peak of the memory that torch held on the GPU; 0 on a CPU."""
    note: str
    sampled: float | None = None
    """Tokens a second of the last generation of RL; None of other stages and where other processes sample."""


@contextmanager
def timed_generations() -> Iterator[list[float]]:
    """Tokens a second of each generation that RL makes in this process, with waking and loading the adapter."""
    speeds: list[float] = []
    plain = CarefulGRPOTrainer._generate

    def generate(self: CarefulGRPOTrainer, *given: Any, **more: Any) -> Any:
        begun = time.monotonic()
        made = plain(self, *given, **more)  # token numbers in lists: the GPU has ended
        speeds.append(sum(map(len, made[1])) / (time.monotonic() - begun))
        return made

    CarefulGRPOTrainer._generate = generate  # type: ignore[method-assign]
    try:
        yield speeds
    finally:
        CarefulGRPOTrainer._generate = plain  # type: ignore[method-assign]


def letters(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """A reward under which completions of a random model differ, so that GRPO has something to learn from."""
    return [sum(letter.isalpha() for letter in text) / (len(text) + 1) for text in completions]


def write_model(shape: Mapping[str, int], folder: Path) -> None:
    """A Llama of a shape with random bfloat16 weights, and a byte-level tokenizer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=1, eos_token_id=2, pad_token_id=2))
    finally:
        torch.set_default_dtype(torch.float32)
    with quiet():
        model.save_pretrained(folder)
    load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(folder)


def write_rows(folder: Path, count: int) -> Path:
    """Rows whose prompt is short and whose answer is longer than any limit: every row is as long as rows get."""
    folder.mkdir(parents=True)
    rows = [
        Example(id=str(number), question=f"What is {number} and 1?", answer="so " * 400, reference=str(number + 1))
        for number in range(count)
    ]
    write_records(folder / "examples.jsonl", rows)
    seal(folder, "rows")
    return folder


def settings(model: Path, overrides: Sequence[str]) -> RunConfig:
    """The default settings, which are the paper's, for one step of each kind of training."""
    fixed = [
        f"model.name={model}",
        "prompts.system2=null",
        f"score.examples={SCORED_ROWS}",
        "sft.max_steps=1",
        "rl.max_steps=2",
        "rl.learning_rate=1e-4",
        "rl.gradient_checkpointing=true",
        f"rl.rewards={{'{__name__}:letters': 1.0}}",
    ]
    return load_config(overrides=[*fixed, *overrides])


def measure(shape: Mapping[str, int], work: Path, overrides: Sequence[str] = ()) -> list[Figure]:
    """Run init, score, partition, SFT and RL with a random model of a shape, and say what each cost."""
    if not (work / "model").exists():
        write_model(shape, work / "model")
    work, model = Path(tempfile.mkdtemp(prefix="runs-", dir=work)), work / "model"
    config = settings(model, overrides)
    rows = write_rows(work / "rows", SFT_ROWS)
    figures: list[Figure] = []

    def stage(
        name: str, output: str, note: str = "", parameters: Mapping[str, Any] | None = None, **inputs: Any
    ) -> Path:
        made = work / f"{name}-{len(figures)}"
        folders = {key: value if isinstance(value, tuple) else (value,) for key, value in inputs.items()}
        options = StageOptions(stage_spec(name), folders, {output: made}, parameters or {}, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with timed_generations() as speeds:
            record = run_single(config, options, Silent())
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        message = ", ".join(f"{key} {record.metrics[key]:.4g}" for key in note.split() if key in record.metrics)
        sampled = speeds[-1] if speeds else None  # of the first one, kernels are still made
        if sampled is not None:
            message += f", {sampled:,.0f} tokens sampled a second"
        figures.append(Figure(name, record.seconds, peak, message, sampled))
        return made

    adapter = stage("init", "adapter", "elements")
    scores = tuple(
        stage("score", "scores", "rows seconds_per_row", {"system": system}, adapter=adapter, rows=rows)
        for system in ("system1", "system2")
    )
    partition = stage("partition", "partition", "elements sft_active_fraction", scores=scores)
    both = {"partition": partition, "system1": rows, "system2": rows}
    tuned = stage("sft", "adapter", "steps seconds active_elements", adapter=adapter, **both)
    stage("rl", "adapter", "steps seconds active_elements", adapter=tuned, **both)
    return figures


@dataclass(frozen=True)
class Part:
    """One way of running all stages that the page tells of."""

    title: str
    overrides: tuple[str, ...]
    needs: str | None = None
    """A package beyond those of training."""
    gpus: int = 1
    """How many must be visible."""
    served: bool = False
    """Whether a vLLM server samples the completions, which is started for it and ended afterwards."""

    @property
    def lacks(self) -> str | None:
        """Why it cannot be measured on this machine; None where it can."""
        if self.needs is not None and find_spec(self.needs) is None:
            return f"{self.needs} is not installed in this environment"
        if self.gpus > max(1, torch.cuda.device_count()):
            return f"{self.gpus} GPUs are needed, and fewer are visible"
        return None


PARTS = (
    Part("bfloat16", ("processes=1",)),
    Part("nf4", ("model.quantization=nf4", "processes=1"), "bitsandbytes"),
    Part("completions of vLLM", ("rl.rollouts=vllm", "processes=1"), "vllm"),
    Part(
        "completions of vLLM that stays awake",
        ("rl.rollouts=vllm", "rl.vllm.sleep=false", "processes=1"),
        "vllm",
    ),
    Part("completions of a vLLM server", ("rl.rollouts=server", "processes=1"), "vllm", served=True),
    Part("two processes", ("processes=2",), gpus=2),
    Part("two processes with a sharded base", ("processes=2", "sharding=fsdp2"), gpus=2),
)


def not_measured() -> str:
    """docs/gpu.md of a checkout that has not met a GPU."""
    parts = "".join(f"\n- {part.title}" for part in PARTS)
    return (
        "# On a GPU\n\n"
        "**Not yet measured.** `make gpu-check` writes this page, with date and card, on a machine with a GPU;\n"
        "without one it ends with one line and exit code 2. It measures scoring, SFT and RL at the shape of a 7B\n"
        "model, for\n"
        f"{parts}\n\n"
        f"and holds two bounds: {SECONDS / 60:.0f} minutes for all of it, and {TIMES_FASTER:g} times as many tokens a "
        "second sampled by vLLM as by\ntransformers. Neither has been measured. The same code runs at a tiny shape on "
        "the CPU in the tests, but for the engine of\nvLLM and for two processes.\n"
    )


def times_faster(parts: Mapping[str, Sequence[Figure] | str]) -> float | None:
    """Tokens a second that vLLM's engine sampled, of those of transformers; None where one of them has no figure."""
    speeds = []
    for title in (_BY_VLLM, _BY_TRANSFORMERS):
        found = parts.get(title, "")
        speeds.append(None if isinstance(found, str) else next((one.sampled for one in found if one.sampled), None))
    ours, theirs = speeds
    return None if ours is None or theirs is None else ours / theirs


def missed(parts: Mapping[str, Sequence[Figure] | str], seconds: float) -> list[str]:
    """What failed, and the bounds that were not kept, a line each."""
    lines = [f"{title}: {found}" for title, found in parts.items() if isinstance(found, str) and _FAILED in found]
    times = times_faster(parts)
    if times is not None and times < TIMES_FASTER:
        lines.append(
            f"vLLM sampled {times:.1f} times the tokens a second of transformers; the bound is {TIMES_FASTER:g}"
        )
    if seconds > SECONDS:
        lines.append(f"the check took {seconds:.0f} s; the bound is {SECONDS:.0f}")
    return lines


def page(parts: Mapping[str, Sequence[Figure] | str], device: str, shape: str, seconds: float) -> str:
    """docs/gpu.md; `parts`: by title, the figures of a part or why it was not measured; `seconds`: of all of it."""
    times = times_faster(parts)
    compared = "not measured" if times is None else f"{times:.1f} times those of transformers"
    bounds = "".join(f"\n- **Missed**: {line}." for line in missed(parts, seconds))
    tables = "\n\n".join(f"## {title}\n\n{_table(found)}" for title, found in parts.items())
    return (
        "# On a GPU\n\n"
        f"Measured on {datetime.date.today().isoformat()} with `make gpu-check`: {device}, torch {torch.__version__}, "
        f"{shape} with random weights, the default settings and gradient checkpointing in RL. One step of "
        "SFT is 32 rows of 512 tokens, one of the two steps of RL 32 completions of up to 256 tokens. Seconds are of "
        "the whole stage, loading and hashing the weights included; what the stage itself reports stands in the last "
        "column.\n\n"
        f"- The whole check: {seconds:.0f} s (bound: {SECONDS:.0f}).\n"
        f"- Tokens a second that vLLM samples: {compared} (bound: {TIMES_FASTER:g} times).{bounds}\n\n"
        f"{tables}\n"
    )


def _table(found: Sequence[Figure] | str) -> str:
    if isinstance(found, str):
        return f"Not measured: {found}."
    rows = "\n".join(f"| {one.stage} | {one.seconds:.1f} | {_size(one.peak_bytes)} | {one.note} |" for one in found)
    return f"| stage | seconds | GPU memory, GiB | figures |\n|---|---|---|---|\n{rows}"


def _size(peak_bytes: int) -> str:
    """Nothing is known of a stage that worked in processes of its own."""
    return f"{peak_bytes / 2**30:.1f}" if peak_bytes else "not seen"


SERVER_SHARE = 0.5
"""Of the GPU's memory, for the server."""
_START_SECONDS = 240.0


@contextmanager
def server(model: Path, log: Path) -> Iterator[str]:
    """A vLLM server as rl.rollouts server needs it, beside the trainer; its address. RuntimeError if none starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port), "--model", str(model)]
    command += ["--max-model-len", "1024", "--gpu-memory-utilization", str(SERVER_SHARE)]
    command += server_arguments(16, sent=True)
    names = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    # A server that is ended leaves its sockets behind: they go with a folder of its own, whose name is short.
    with log.open("wb") as file, tempfile.TemporaryDirectory(prefix="s-", ignore_cleanup_errors=True) as sockets:
        env = {**names, **ENVIRONMENT, "TMPDIR": sockets}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
        address, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + _START_SECONDS
        try:
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-300:]}")
                time.sleep(0.5)
            yield address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:  # noqa: S310 -- of this machine
            return bool(answer.status == 200)
    except OSError:
        return False


def measure_part(part: Part, shape: Mapping[str, int], work: Path, overrides: Sequence[str] = ()) -> list[Figure]:
    """The figures of one part; a server that it needs is there for all its stages."""
    given = (*overrides, *part.overrides)
    if not part.served:
        return measure(shape, work, given)
    if not (work / "model").exists():
        write_model(shape, work / "model")
    with server(work / "model", work / "server.log") as address:
        return measure(shape, work, (*given, f"rl.server.endpoint={address}"))


def measure_parts(shape: Mapping[str, int], work: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """By title, the figures of each part, or why it was not measured; one model is written for all."""
    return {part.title: part.lacks or _measured(part, shape, work, overrides) for part in PARTS}


_FAILED = "it failed"


def _measured(part: Part, shape: Mapping[str, int], work: Path, overrides: Sequence[str]) -> list[Figure] | str:
    """The figures of one part, or how it failed: the others are measured all the same."""
    try:
        return measure_part(part, shape, work, overrides)
    except Exception as error:  # of whatever layer, torch and vLLM included
        print(f"gpu-check: {part.title} failed", file=sys.stderr)
        traceback.print_exc()
        reason = f"{_FAILED} ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    gc.collect()  # what the error held of the GPU's memory
    return reason


def main() -> int:
    """Measure and write the page; one line and exit code 2 without a GPU, 1 where a part or a bound failed."""
    if not torch.cuda.is_available():
        print("gpu-check: torch sees no CUDA device here, so there is nothing to measure", file=sys.stderr)
        return 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lorapar-gpu-") as work:
        parts = measure_parts(LLAMA_2_7B, Path(work))
    seconds = time.monotonic() - begun
    text = page(parts, torch.cuda.get_device_name(), "a Llama-2-7B shape", seconds)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    for line in (lines := missed(parts, seconds)):
        print(f"gpu-check: {line}", file=sys.stderr)
    return int(bool(lines))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
