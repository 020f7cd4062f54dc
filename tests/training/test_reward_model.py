"""Reward models: real sequence classifiers of transformers, tiny and random, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig, RewardModelConfig, RlConfig
from lorapar.errors import BadInputError
from lorapar.progress import Silent
from lorapar.training.columns import Columns
from lorapar.training.reward_model import ModelReward, resolved_reward_model
from lorapar.training.reward_tools import RewardTools, opened_rewards

TEXTS = ["Seven.", "I do not know, and it is a long story.", "7"]
QUESTIONS = ["What is 3 + 4?", "And 2?", "What is 3 + 4?"]
SEEN = Columns(QUESTIONS, ["7"] * 3, [None] * 3, [[1]] * 3)


def made(folder: Path, kind: Any, chat: bool = True, **changes: Any) -> Path:
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny", dtype="float32"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        **changes,
    )
    model = kind(config)
    if hasattr(model, "score"):
        torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("chat", [True, False])
def test_the_reward_is_the_models_output_for_each_completion_alone(tmp_path: Path, chat: bool) -> None:
    folder = made(tmp_path, LlamaForSequenceClassification, chat, num_labels=1)
    reward = ModelReward("helpful", RewardModelConfig(name=str(folder), batch_size=2), "float32", Silent())
    found = reward(TEXTS, [()] * 3, SEEN)
    # Independently: one row at a time, without padding, in transformers' own words.
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny", dtype="float32"))
    for question, text, value in zip(QUESTIONS, TEXTS, found, strict=True):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        ids = (
            tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
            if chat
            else tokenizer(question, text)
        )["input_ids"]
        model.config.pad_token_id = None
        with torch.no_grad():
            assert value == pytest.approx(float(model(torch.tensor([ids])).logits[0, 0]), abs=1e-5)
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (LlamaForCausalLM, {}, "is no reward model (LlamaForCausalLM"),
        (LlamaForSequenceClassification, {"num_labels": 3}, "3 outputs"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, kind: Any, changes: dict[str, Any], message: str) -> None:
    folder = made(tmp_path, kind, **changes)
    with pytest.raises(BadInputError) as raised:
        ModelReward("helpful", RewardModelConfig(name=str(folder)), "float32", Silent())
    assert message in str(raised.value)
    assert str(raised.value).startswith("rl.rewards.helpful.reward_model: ")


def test_a_model_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"rl\.rewards\.helpful\.reward_model"):
        resolved_reward_model("helpful", RewardModelConfig(name=str(tmp_path / "nothing")))


def test_settings_open_it(tmp_path: Path) -> None:
    folder = made(tmp_path, LlamaForSequenceClassification, num_labels=1)
    settings = RlConfig(rewards={"helpful": {"weight": 0.25, "reward_model": {"name": str(folder)}}})
    with opened_rewards(settings, RewardTools(), "float32", Silent()) as (reward,):
        assert (reward.name, reward.weight) == ("helpful", 0.25)
        assert all(isinstance(value, float) for value in reward(TEXTS, [()] * 3, SEEN))
    assert resolved_reward_model("helpful", RewardModelConfig(name=str(folder))).digest


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("chat", [True, False])
def test_what_is_cut_for_a_reward_model_is_counted_and_reported_once(tmp_path: Path, chat: bool) -> None:
    folder, heard = made(tmp_path, LlamaForSequenceClassification, chat, num_labels=1), Heard()
    options = RewardModelConfig(name=str(folder), batch_size=1, max_length=24)
    reward = ModelReward("helpful", options, "float32", heard)
    long = Columns(["7?"] * 3, ["7"] * 3, [None] * 3, [[1]] * 3)
    reward(["It is seven " * 20, "7", "It is seven " * 30], [()] * 3, long)
    assert (reward.cut().count, reward.cut().total) == (2, 3)
    assert "rl.rewards.helpful.reward_model.max_length" in reward.cut().line
    assert len([line for line in heard.lines if "reads only the first 24 tokens" in line]) == 1
