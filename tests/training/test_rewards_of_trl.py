"""TRL's own rewards, named in `rl.rewards`: every one that the installed TRL has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import trl
import trl.rewards

from lorapar.config import RewardConfig, RlConfig
from lorapar.errors import BadInputError
from lorapar.training.columns import Columns
from lorapar.training.rewards import Reward, load_rewards, trl_reward_names

NEEDED = {"get_soft_overlong_punishment": {"soft_punish_cache": 50}}
TEXTS = [r"<think>so</think> \boxed{7}", "seven seven seven seven", r"\boxed{8}"]


def columns(texts: list[str], answers: list[str]) -> Columns:
    return Columns(
        questions=["3+4?"] * len(texts),
        answers=answers,
        prompts=[[{"role": "user", "content": "3+4?"}]] * len(texts),
        completion_ids=[[5] * len(text) for text in texts],
    )


def reward(name: str, options: dict[str, Any] | None = None, length: int = 64) -> Reward:
    config = RlConfig(rewards={f"trl.rewards:{name}": RewardConfig(weight=0.5, options=options or {})})
    (found,) = load_rewards(config.rewards, max_completion_length=length)
    assert found.weight == 0.5
    return found


def test_the_names_are_all_functions_in_the_packages_files() -> None:
    """An independent list: the functions that TRL's source defines in the folder, by reading it."""
    folder = Path(inspect.getfile(trl)).parent / "rewards"
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py")))
    public = set(re.findall(r"^def ([a-z]\w*)\(", text, re.M))
    assert set(trl_reward_names()) == public
    assert public


@pytest.mark.parametrize("name", trl_reward_names())
def test_every_reward_of_trl_can_be_named_and_says_what_trl_says(name: str) -> None:
    seen = columns(TEXTS, ["7"] * 3)
    message = reward(name, NEEDED.get(name))(TEXTS, ["7"] * 3, seen)
    function = getattr(trl.rewards, name)
    if name.startswith("get_"):
        wanted = {"max_len": 64, "max_completion_len": 64, **NEEDED.get(name, {})}
        function = function(**{key: wanted[key] for key in wanted if key in inspect.signature(function).parameters})
    direct = function(
        completions=[[{"role": "assistant", "content": text}] for text in TEXTS],
        solution=["7"] * 3,
        completion_ids=seen.completion_ids,
    )
    assert message == pytest.approx(direct)
    assert len(set(message)) > 1, "these completions are not all worth the same"


def test_the_solution_is_the_short_answer_or_else_the_whole_one() -> None:
    accuracy = reward("accuracy_reward")
    whole = r"Three and four make \boxed{7}."
    assert accuracy([r"\boxed{7}"] * 3, ["7", (), ("8", "7")], columns(["a"] * 3, ["9", whole, "7"])) == [1, 1, 0]
    assert accuracy([r"\boxed{7}"], [()], columns(["a"], ["no number here"])) == [None]


def test_options_reach_the_reward() -> None:
    after = reward("reasoning_accuracy_reward", {"reasoning_delimiters": ["</reasoning>"]})
    text = [r"<reasoning>\boxed{8}</reasoning> \boxed{7}"]
    assert after(text, ["7"], columns(text, ["7"])) == [1.0]
    assert reward("get_soft_overlong_punishment", {"soft_punish_cache": 10}, length=20)(
        ["x" * 15], ["7"], columns(["x" * 15], ["7"])
    ) == [-0.5]


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("trl.rewards:acuracy_reward", {}, "accuracy_reward"),
        ("trl.rewards:get_soft_overlong_punishment", {}, "needs soft_punish_cache"),
        ("trl.rewards:think_format_reward", {"strictness": 1}, "does not take strictness; it has no options"),
        ("trl.rewards:get_repetition_penalty_reward", {"max_penalty": 1.0}, "max_penalty"),
    ],
)
def test_what_trl_does_not_have_is_reported_in_one_line(key: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(message)) as raised:
        load_rewards({key: RewardConfig(options=options)})
    assert "\n" not in str(raised.value)
