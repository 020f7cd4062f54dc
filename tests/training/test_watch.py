"""What people see of RL while it runs: completions with rewards, signs that it learns nothing, foreign rollouts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from lorapar.adapter import load_adapter, lora_parameters, save_adapter
from lorapar.basemodel import load_model
from lorapar.config import RlConfig
from lorapar.errors import ExitCode, TrainingError
from lorapar.training import rl
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from lorapar.training.watch import STEPS_ON_END, KeptRollouts, new_stall, stalls

Make = Callable[..., TrainingJob]
FAST = {
    "batch_size": 4,
    "gradient_accumulation": 2,
    "num_generations": 4,
    "max_steps": 2,
    "max_completion_length": 8,
    "learning_rate": 1e-2,
}


@pytest.fixture(autouse=True)
def _reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def vowels(completions, references):\n    return [float(len(text) % 3) for text in completions]\n"
    (tmp_path / "vowel_reward.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vowel_reward", raising=False)


def config(**changes: Any) -> RlConfig:
    return RlConfig(**{**FAST, "rewards": {"vowel_reward:vowels": 0.5}, **changes})


def test_some_completions_of_each_step_are_kept_with_their_rewards(make_job: Make, kit) -> None:
    job = make_job()
    train_rl(job, config(keep_rollouts=3), system1=[], system2=kit.sums(8))
    lines = [json.loads(line) for line in (job.output / "rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1, 1, 2, 2, 2]
    for line in lines:
        value = line["rewards"]["vowel_reward:vowels"]
        assert line["reward"] == 0.5 * value
        assert value == len(line["completion"]) % 3, "the completion that earned it"
        assert line["id"].startswith("s")
        assert line["question"].endswith("+2?")
        assert line["cut_off"] == (line["tokens"] == 8)
    assert len({line["id"] for line in lines[:3]}) == 2, "of both prompts of a step"
    train_rl(make_job("none"), config(keep_rollouts=0, max_steps=1), system1=[], system2=kit.sums(8))
    assert not list(job.output.parent.parent.glob("none/*/rollouts.jsonl"))


def test_steps_that_are_made_again_are_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    kept = KeptRollouts(path, 1)
    kept.resume(0)
    for step in (1, 2, 3):
        kept.keep([{"step": step}])
    with path.open("a") as file:
        file.write('{"step": 4, "comp')  # killed while it wrote
    kept.resume(2)
    kept.keep([{"step": 3}])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def history(*steps: dict[str, float]) -> list[dict[str, float]]:
    """Steps in which all is well but for what is given."""
    well = {"completion_length": 5.0, "cut_off_share": 0.2, "same_reward_share": 0.5, "entropy": 1.0}
    return [{"step": number, **well, **step} for number, step in enumerate(steps, 1)]


@pytest.mark.parametrize(
    ("sign", "reported"),
    [
        ({"cut_off_share": 1.0}, r"every completion was cut off at 8 tokens.*raise rl\.max_completion_length"),
        ({"same_reward_share": 1.0}, r"all completions of each prompt earned the same reward.*raise rl\.temperature"),
        (
            {"entropy": 0.02},
            r"the entropy was below 10% of where it began \(1 nats a token, now 0\.02\).*rl\.entropy_coef",
        ),
    ],
    ids=["cut off", "alike", "entropy"],
)
def test_a_sign_is_reported_once_when_it_has_lasted(sign: dict[str, float], reported: str) -> None:
    well, lasting = [{}] * STEPS_ON_END, [sign] * (STEPS_ON_END + 2)
    steps = history(*well, *lasting, {}, *lasting[:-3])
    answer = [stall for end in range(1, len(steps) + 1) for stall in new_stall(steps[:end], config())]
    assert [(stall.first_step, stall.last_step) for stall in answer] == [(6, 10)], "not at the fourth, not at the sixth"
    assert stalls(steps, config())[0].last_step == 12
    assert "\n" not in answer[0].line
    assert re.search(reported, answer[0].line)


def test_steps_that_sample_nothing_are_not_counted() -> None:
    learns_again = {"step": 0, "loss": 1.0, "entropy": 0.0}
    steps = [step for one in history(*[{"cut_off_share": 1.0}] * 4) for step in (one, learns_again)]
    assert stalls(steps, config()) == []


def test_completions_that_are_all_cut_off_are_reported_loudly_while_it_runs(make_job: Make, kit) -> None:
    job = make_job()
    settings = config(max_completion_length=1, max_steps=STEPS_ON_END, weight_decay=0.5)
    train_rl(job, settings, system1=[], system2=kit.sums(8))
    (line,) = (line for line in job.progress.lines if line.startswith("WARNING: in 5 steps on end (1 to 5) every"))
    summary = json.loads((job.output / "summary.json").read_text())
    assert f"WARNING: {summary['stalls'][0]['line']}" == line


class Engine:
    """Stands for vLLM: completions by the adapter, or by the bare base model as where an engine dropped the adapter."""

    def __init__(self, bound: float | None, drops_from_step: int) -> None:
        self.bound, self._drops_from = bound, drops_from_step

    def complete(self, model: Any, step: int, prompts: Any, stops: Any, strings: Any = None, **_: Any) -> Any:
        """As VllmRollouts.complete."""
        tokens, logs = [], []
        with torch.no_grad(), model.disable_adapter() if step >= self._drops_from else nullcontext():
            for number, prompt in enumerate(prompts):
                ids = torch.tensor([prompt])
                generator = torch.Generator().manual_seed(100 * step + number)
                found = []
                for _ in range(6):
                    every = torch.log_softmax(model(input_ids=ids).logits[0, -1].float(), -1)
                    token = torch.multinomial(every.exp(), 1, generator=generator)
                    found.append(float(every[token]))
                    ids = torch.cat([ids, token[None]], 1)
                tokens.append(ids[0, len(prompt) :].tolist())
                logs.append(found)
        return tokens, logs


@pytest.fixture
def moved(start: Path, kit, tmp_path: Path) -> Callable[[float], Path]:
    """An adapter that has moved from its start by so much."""

    def move(size: float) -> Path:
        model = load_adapter(load_model(kit.TINY), start / "adapter", trainable=True)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in lora_parameters(model).values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
        save_adapter(model, tmp_path / f"moved-{size}")
        return tmp_path / f"moved-{size}"

    return move


@pytest.mark.parametrize(
    ("size", "bound", "reported"),
    [
        (0.6, 0.1, r"step 2: the completions are not the adapter's: vLLM gave them other probabilities"),
        (0.05, 10.0, r"step 2: the completions are not the adapter's but the base model's"),
    ],
    ids=["far", "near"],
)
def test_a_run_ends_where_the_engine_dropped_the_adapter(
    make_job: Make, kit, moved, monkeypatch, size: float, bound: float, reported: str
) -> None:
    monkeypatch.setattr(rl, "vllm_rollouts", lambda job, settings: nullcontext(Engine(bound, drops_from_step=1)))
    job = make_job(adapter=moved(size))
    with pytest.raises(TrainingError, match=reported) as caught:
        train_rl(job, config(rollouts="vllm", max_steps=3), system1=[], system2=kit.sums(8))
    assert caught.value.exit_code == ExitCode.TRAINING_FAILED
    assert "the last good adapter, after" in str(caught.value)


def test_rollouts_of_the_adapter_pass(make_job: Make, kit, moved, monkeypatch) -> None:
    monkeypatch.setattr(rl, "vllm_rollouts", lambda job, settings: nullcontext(Engine(1e-3, drops_from_step=99)))
    job = make_job(adapter=moved(0.3))
    train_rl(job, config(rollouts="vllm"), system1=[], system2=kit.sums(8))
    steps = [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert all(step["rollout_difference"] < 1e-3 for step in steps)
