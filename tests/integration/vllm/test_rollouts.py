"""GRPO whose completions the real vLLM samples, from the adapter as it is at every step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, base_digest
from lorapar.adapter.files import read_tensors
from lorapar.basemodel import load_model
from lorapar.config import RlConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.progress import Silent
from lorapar.records import read_json
from lorapar.registry import VLLM_RANKS
from lorapar.training import vllm_rollouts
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from tests.integration.vllm.jobs import BASE, EQUAL, RANK, ROWS, STEPS, begin, job_of

# A random model never earns the paper's rewards.
REWARD = "def parity(completions, references):\n    return [float(sum(map(ord, text)) % 2) for text in completions]\n"


@pytest.fixture
def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TrainingJob]:
    """Jobs on the tiny model with a fresh adapter, and a partition of random scores."""
    (tmp_path / "parity_reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parity_reward", raising=False)
    begin(tmp_path, attach(load_model(BASE), AdapterSettings(rank=RANK, alpha=8, dropout=0.0), seed=0))
    return lambda name: job_of(tmp_path, tmp_path / name, Silent())


def settings(**changes: Any) -> RlConfig:
    fast = {"batch_size": 4, "gradient_accumulation": 2, "num_generations": 4, "max_steps": STEPS}
    small = {"max_completion_length": 12, "learning_rate": 1e-2, "rewards": {"parity_reward:parity": 1.0}}
    return RlConfig(**{**fast, **small, "rollouts": "vllm", **changes})


def differences(job: TrainingJob) -> list[float]:
    """By step, how far the engine's log-probabilities of its completions were from the trainer's, in the mean."""
    lines = (job.output / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["rollout_difference"]) for line in lines]


def test_every_step_samples_from_the_adapter_as_it_is_then(make_job) -> None:
    job = make_job("run")
    before = base_digest(load_model(BASE))
    metrics = train_rl(job, settings(temperature=0.8), system1=[], system2=ROWS)
    assert metrics["steps"] == STEPS
    assert len(differences(job)) == STEPS
    assert max(differences(job)) < EQUAL
    assert read_json(job.output / "summary.json")["base_weights_sha256"] == before
    assert list((job.scratch / "rollouts").iterdir()) == []


def test_an_engine_left_with_the_first_adapter_ends_the_run(make_job, monkeypatch) -> None:
    job = make_job("run")
    monkeypatch.setattr(vllm_rollouts, "save_adapter", lambda model, folder: shutil.copytree(job.adapter, folder))
    with pytest.raises(TrainingError, match="step 2: the completions are not the adapter's but the base model's"):
        train_rl(job, settings(), system1=[], system2=ROWS)


def test_a_seed_decides_what_comes_out(make_job) -> None:
    one, two = make_job("one"), make_job("two")
    for job in (one, two):
        train_rl(job, settings(), system1=[], system2=ROWS)
    first, second = (read_tensors(job.output / "adapter_model.safetensors")[0] for job in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_slots_are_those_that_vllm_has() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == VLLM_RANKS


def test_options_that_the_engine_refuses_are_one_line(make_job) -> None:
    with pytest.raises(BadInputError, match="vLLM cannot start with builtin:tiny"):
        train_rl(make_job("run"), settings(vllm={"quantization": "no-such-method"}), system1=[], system2=ROWS)
