"""Run a stage of the demo's training in this process, or TRL's GRPO on the same data, and print what it cost as JSON.

`python training_stage.py NAME FOLDER stage|plain SETTING...`: FOLDER holds the adapters `start` and `tuned` and
`partition.safetensors`. PYTHONPATH decides which build of lorapar runs, so nothing at the top may be newer than the
earliest of them. LORAPAR_BENCH_PRESET names other settings than the demo's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import load_config
from lorapar.data import load_examples
from lorapar.progress import Silent
from lorapar.training import rl, sft
from lorapar.training.arguments import rl_arguments
from lorapar.training.rewards import load_rewards
from lorapar.training.rows import rl_rows
from lorapar.training.session import TrainingJob
from lorapar.training.trainers import CarefulGRPOTrainer

PRESET = os.environ.get("LORAPAR_BENCH_PRESET", "demo")


def stage(name: str, folder: Path, settings: list[str], *, plain: bool = False) -> dict[str, Any]:
    """Run a stage of the demo in this process; what it cost. `plain`: TRL's GRPO on PEFT's model, nothing of ours."""
    config = load_config(preset=PRESET, overrides=settings)
    output, scratch = folder / f"{name}-out", folder / f"{name}-scratch-{os.getpid()}"
    for made in (output, scratch):
        made.mkdir(exist_ok=True)
    job = TrainingJob(
        model=config.model, prompts=config.prompts, seed=0, adapter=folder / ("start" if name == "sft" else "tuned"),
        partition=folder / "partition.safetensors", output=output, scratch=scratch, progress=Silent(),
    )  # fmt: skip
    rows = [row for row in load_examples(config.data, config.seed) if row.split == "train"]
    by_system = {s: [row for row in rows if row.known_system == s] for s in ("system1", "system2")}
    passes = timed_passes(folder, plain=plain)
    before = time.process_time(), time.monotonic()
    if plain:
        plain_grpo(job, config.rl, by_system["system2"])
    else:
        (sft.train_sft if name == "sft" else rl.train_rl)(job, getattr(config, name), **by_system)
    history = output / "history.jsonl"
    return {
        "cpu": time.process_time() - before[0],
        "wall": time.monotonic() - before[1],
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "passes": passes,
        "losses": [] if plain else [json.loads(line)["loss"] for line in history.read_text().splitlines()],
    }


def plain_grpo(job: Any, config: Any, rows: list[Any]) -> None:
    """The stage's data, rewards and arguments in TRL's trainer, with its own optimiser over the whole adapter."""
    from lorapar.basemodel import answer_end  # not at the top: an earlier build has it elsewhere

    tokenizer = load_tokenizer(job.model)
    end = answer_end(tokenizer)
    rewards = load_rewards(config.rewards)
    model = PeftModel.from_pretrained(load_model(job.model), job.adapter, is_trainable=True)
    model.generation_config.eos_token_id = list(end.token_ids)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[rl.for_trl(reward, end.cut) for reward in rewards],
        args=GRPOConfig(**rl_arguments(config, job.model, rewards, job.seed, job.scratch)),
        train_dataset=rl.rl_data(job, rl_rows({"system2": rows}, "system2", config, tokenizer, job.prompts).rows),
        processing_class=tokenizer,
    )
    trainer.train()


def timed_passes(folder: Path, *, plain: bool) -> list[float]:
    """Processor seconds of each forward and backward pass, the first of a step with its sampling.

    The completions that our side learns from are kept; plain TRL samples, too, and then learns from those kept.
    """
    kind = GRPOTrainer if plain else CarefulGRPOTrainer
    one_pass, sample = kind.training_step, kind._generate_single_turn
    found: list[float] = []

    def training_step(self: Any, *args: Any, **more: Any) -> Any:
        before = time.process_time()
        loss = one_pass(self, *args, **more)
        found.append(time.process_time() - before)
        return loss

    def generate(self: Any, *args: Any, **more: Any) -> Any:
        sampled = sample(self, *args, **more)
        kept = folder / f"completions-{self.state.global_step}.json"
        if plain:
            return json.loads(kept.read_text()), None
        kept.write_text(json.dumps(sampled[0]))
        return sampled

    kind.training_step, kind._generate_single_turn = training_step, generate
    return found


if __name__ == "__main__":
    stage_name, where, kind, *given = sys.argv[1:]
    print(json.dumps(stage(stage_name, Path(where), given, plain=kind == "plain")))
