"""The five rewards against the paper's numbers, and rewards of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lorapar.config import RlConfig
from lorapar.errors import BadInputError
from lorapar.training.rewards import REWARDS, load_rewards

PERFECT = "<reasoning>3+4=7</reasoning>\n<answer>7</answer>"


def total(text: str, reference: str = "7") -> float:
    """What a completion earns with the default weights."""
    return sum(reward.weight * reward([text], [reference])[0] for reward in load_rewards(RlConfig().rewards))


@pytest.mark.parametrize(
    ("text", "paper"),
    [
        (PERFECT, 2.0 + 0.5 + 0.5 + 0.5 + 4 * 0.125),
        ("<reasoning>3+4=7</reasoning><answer>7.00</answer>", 4.0),
        ("<reasoning>3+4=8</reasoning><answer>8</answer>", 2.0),  # wrong, everything else right
        ("<reasoning>3+4=7</reasoning><answer>seven</answer>", 1.5),  # no number
        (PERFECT + "0123456789", 4.0 - 0.5 - 10 * 0.001),  # no longer strict, ten trailing characters
        ("Well. " + PERFECT, 3.5),  # something before the tags: only the soft format holds
        ("<answer>7</answer>", 2.0 + 0.5 + 2 * 0.125),
        ("<reasoning>3+4=7</reasoning>", 2 * 0.125),
        ("7", 0.0),
        ("", 0.0),
        (PERFECT + PERFECT, 2.0 + 0.5 + 0.5),  # every tag twice: counts nothing, is not strict
    ],
)
def test_default_weights_add_up_to_the_papers_numbers(text: str, paper: float) -> None:
    assert total(text) == pytest.approx(paper, abs=1e-12)


def test_each_reward_is_one_for_all_that_it_asks() -> None:
    assert {name: reward([PERFECT], ["7"]) for name, reward in REWARDS.items()} == {key: [1.0] for key in REWARDS}


@pytest.mark.parametrize("written", ["1,000", "1000", "1000.0", "$1,000", " 1000 "])
def test_numbers_are_compared_as_numbers(written: str) -> None:
    assert REWARDS["exact_answer"]([f"<answer>{written}</answer>"], ["1000"]) == [1.0]
    assert REWARDS["integer_answer"]([f"<answer>{written}</answer>"], ["1000"]) == [1.0]


def test_a_fraction_is_no_integer() -> None:
    assert REWARDS["integer_answer"](["<answer>7.5</answer>", "<answer>-7</answer>"], ["7", "7"]) == [0.0, 1.0]


OWN_REWARDS = """
import math

def shorter(completions, references):
    return [1 / (1 + len(text)) for text in completions]

def nan(completions, references):
    return [math.nan for _ in completions]

def too_few(completions, references):
    return [1.0]

def words(completions, references):
    return ["good" for _ in completions]

def generator(completions, references):
    return (1.0 for _ in completions)

def fails(completions, references):
    raise KeyError("oops")

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_own_rewards.py").write_text(OWN_REWARDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_rewards", raising=False)
    return "my_own_rewards"


def test_a_reward_of_ones_own_by_import_path(own_module: str) -> None:
    (reward,) = load_rewards({f"{own_module}:shorter": 3.0})
    assert reward(["", "abc"], ["7", "7"]) == [1.0, 0.25]
    assert reward.weight == 3.0


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("nan", "finite"),
        ("too_few", "one number a completion, got 1 values"),
        ("words", "finite numbers, got 'good'"),
        ("generator", "got a generator"),
        ("fails", "KeyError"),
        ("absent", "no function called absent"),
        ("number", "is a int, not a function"),
    ],
)
def test_a_faulty_reward_is_refused_before_training(own_module: str, function: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        load_rewards({f"{own_module}:{function}": 1.0})


def test_a_module_that_is_not_there_and_a_misspelt_name() -> None:
    with pytest.raises(BadInputError, match="cannot be imported"):
        load_rewards({"no_such_module_here:function": 1.0})
    with pytest.raises(BadInputError, match="did you mean 'tag_count'"):
        load_rewards({"tag_counts": 1.0})
