"""`lorapar plan` looks up what is a model, and nothing else."""

from typing import Any

import pytest
import torch

from lorapar.basemodel import hub
from lorapar.config import RunConfig, load_config
from lorapar.errors import BadInputError
from lorapar.local.calls import judge_calls
from lorapar.local.estimate import stage_memory_bytes
from lorapar.local.planning import plan_run
from lorapar.local.runner import comes_to

SERVED = 'teachers=[{name: a, backend: openai, endpoint: "http://127.0.0.1:9/v1", model: served-name}]'


def test_what_an_endpoint_serves_is_not_looked_up(tmp_path, monkeypatch) -> None:
    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "commit_of", asked)
    monkeypatch.setattr(hub, "config_file", asked)
    config = load_config(preset="tiny", overrides=[SERVED])
    plan_run(config, tmp_path / "run", until=None, fresh=False)
    assert stage_memory_bytes(config)["vote"] < stage_memory_bytes(config)["init"]


def test_a_teacher_that_is_no_model_is_named(tmp_path) -> None:
    config = load_config(preset="tiny", overrides=["teachers=[{name: a, model: ./nowhere}]"])
    with pytest.raises(BadInputError, match=r"^teachers\[a\]\.model: \./nowhere is not a folder"):
        plan_run(config, tmp_path / "run", until=None, fresh=False)


@pytest.mark.parametrize(
    ("native", "said"),
    [
        (True, "format      bfloat16, which this CPU computes natively"),
        (False, "format      float32: this CPU only emulates bfloat16"),
    ],
)
def test_what_auto_came_to_is_said(tmp_path, monkeypatch, native, said) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": native}, raising=False)
    lines = [
        str(one)
        for one in plan_run(
            load_config(preset="tiny", overrides=["model.dtype=auto"]), tmp_path / "run", until=None, fresh=False
        ).lines
    ]
    assert said in lines
    fixed = plan_run(load_config(preset="tiny"), tmp_path / "run", until=None, fresh=False).lines
    assert not [line for line in map(str, fixed) if line.startswith("format ")]


@pytest.mark.parametrize(("last", "comes"), [("sft", False), ("execute", False), ("gate", True), ("report", True)])
def test_only_a_run_that_comes_to_the_gate_asks_for_rows_it_can_judge(last, comes) -> None:
    assert comes_to("gate", last) is comes


@pytest.mark.parametrize(
    ("rl", "said"),
    [
        ({"max_steps": 5, "batch_size": 4, "gradient_accumulation": 2, "num_generations": 4}, "at most 40 calls"),
        ({"epochs": 2.0, "num_generations": 8}, "at most 4,096 calls"),  # 256 training rows of the task mix
    ],
)
def test_calls_of_a_judge_are_counted_before_it_is_asked(rl: dict[str, Any], said: str) -> None:
    judge = {"judge": {"endpoint": "http://judge:8000/v1", "model": "m"}}
    config = RunConfig(rl={**rl, "rewards": {"exact_answer": 1.0, "quality": judge}})
    (line,) = judge_calls(config)
    assert line.startswith(f"quality: {said}")
    assert judge_calls(RunConfig()) == []
