"""The rewards of RL: the paper's five, TRL's, and a person's own by import path (Huang et al. 2025, section 4.2).

A reward looks at completions (texts) and references (the short exact answers, one for each completion) and gives one
number a completion, 1.0 for all that it asks for, or None where it has no say. The settings weigh it: the paper's 2.0
for the exact answer and 0.5 for each of the four others are the defaults of `rl.rewards`. The four follow W. Brown's
"grpo_demo.py", with one difference: white space between tags is free, because the paper shows tags and not line breaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from lorapar.answers import References, as_number, extract_tagged
from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import RewardConfig
from lorapar.config.rewards import TRL_REWARDS
from lorapar.errors import BadInputError, nearest
from lorapar.training.columns import Columns
from lorapar.training.own_rewards import OwnReward, RewardError, RewardFunction
from lorapar.training.trl_rewards import TrlReward

_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_BLOCKS = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.DOTALL)
# The paper takes 0.001 a character off a reward whose tags are worth 4 x 0.125 = 0.5 in all.
_TRAILING_PENALTY = 0.001 / 0.5


def exact_answer(
    completions: Sequence[str], references: Sequence[References], rule: AnswerRule = EXACT
) -> list[float | None]:
    """1.0 where the text inside the answer tags is a reference, by the rule that the setting `answers` names.

    No say about a row without a short answer.
    """
    said = [extract_tagged(text) for text in completions]
    pairs = [(text, ref) for text, ref in zip(said, references, strict=True) if text is not None]
    verdicts = iter(rule.are_answers(pairs))
    right = [float(text is not None and next(verdicts)) for text in said]
    return [value if ref else None for value, ref in zip(right, references, strict=True)]


def integer_answer(completions: Sequence[str], references: Sequence[References]) -> list[float | None]:
    """1.0 where the text inside the answer tags is a whole number, with a unit or without, right or wrong.

    No say about a row without a short answer.
    """
    pairs = zip(completions, references, strict=True)
    return [float(_is_integer(extract_tagged(text))) if ref else None for text, ref in pairs]


def strict_format(completions: Sequence[str], references: Sequence[References]) -> list[float]:
    """1.0 where the completion is one reasoning block, one answer block and nothing else but white space."""
    return [float(_BLOCKS.fullmatch(text.strip()) is not None and _each_tag_once(text)) for text in completions]


def soft_format(completions: Sequence[str], references: Sequence[References]) -> list[float]:
    """1.0 where an answer block follows a reasoning block somewhere in the completion."""
    return [float(_BLOCKS.search(text) is not None) for text in completions]


def tag_count(completions: Sequence[str], references: Sequence[References]) -> list[float]:
    """0.25 for each of the four tags that stands there exactly once, less 0.002 a character after the closing tag."""
    return [
        sum(text.count(tag) == 1 for tag in _TAGS) / 4 - _TRAILING_PENALTY * _trailing(text) for text in completions
    ]


REWARDS: Mapping[str, RewardFunction] = {
    function.__name__: function for function in (exact_answer, integer_answer, strict_format, soft_format, tag_count)
}
"""The rewards that can be named in `rl.rewards` without an import path."""


PASSES_TESTS = "passes_tests"
"""The reward of `lorapar.training.passes_tests`, which needs the sandbox."""


@dataclass(frozen=True)
class Reward:
    """A reward as the settings name and weigh it."""

    name: str
    weight: float
    function: Any
    """A RewardFunction; one with an attribute `takes_columns` gets a third argument, the Columns."""

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns | None = None
    ) -> list[float | None]:
        """A finite number a completion, before weighing, or None where the reward has no say.

        Raises RewardError where a person's own function fails or gives something else.
        """
        if getattr(self.function, "takes_columns", False):
            return list(self.function(completions, references, columns))
        return list(self.function(completions, references))


Opener = Callable[[str, RewardConfig], Any]
"""Makes the function of a judge, a reward model or `passes_tests`."""


def load_rewards(
    config: Mapping[str, float | RewardConfig],
    rule: AnswerRule = EXACT,
    *,
    max_completion_length: int = 512,
    opener: Opener | None = None,
) -> list[Reward]:
    """The rewards of `rl.rewards`, each tried out once, so that a faulty one stops the run before anything is trained.

    A key is one of `REWARDS`, `trl.rewards:NAME`, or an import path `package.module:function` of a function with the
    same parameters. Judges, reward models and `passes_tests` are made by `opener` and not tried out; without one
    they are left out, as rewards of TRL are where it is not installed.
    Raises BadInputError naming the reward that cannot be imported, called, or does not return what it must.
    """
    rewards = []
    for name, value in config.items():
        options = value if isinstance(value, RewardConfig) else RewardConfig(weight=value)
        if options.brings_its_own or name == PASSES_TESTS:
            if opener is not None:
                rewards.append(Reward(name, options.weight, opener(name, options)))
            continue
        if name.startswith(TRL_REWARDS):
            if find_spec("trl") is None or find_spec("torch") is None:
                continue
            reward = Reward(name, options.weight, TrlReward.find(name, options.options, max_completion_length))
        else:
            reward = Reward(name, options.weight, _find(name, rule))
        _try_out(reward)
        rewards.append(reward)
    return rewards


def _find(name: str, rule: AnswerRule) -> RewardFunction:
    if name == exact_answer.__name__:
        return partial(exact_answer, rule=rule)
    if name in REWARDS:
        return REWARDS[name]
    if ":" not in name:
        known = list(REWARDS)
        raise BadInputError(
            f"rl.rewards: '{name}' is no reward{nearest(name, known)}; one of {', '.join(known)}, or an import path "
            "like package.module:function"
        )
    return OwnReward.find(name)


def _try_out(reward: Reward) -> None:
    """Call it with a good, a wrong and an empty completion: the shapes that RL will show it."""
    texts = ["<reasoning>3+4=7</reasoning><answer>7</answer>", "I do not know.", ""]
    try:
        reward(texts, ["7"] * len(texts), Columns.for_trying(texts, "7"))
    except RewardError as error:
        raise BadInputError(
            f"{error} (tried out with completions and references before anything is trained)"
        ) from error


def _is_integer(answer: str | None) -> bool:
    number = None if answer is None else as_number(answer)
    return number is not None and number.denominator == 1


def _each_tag_once(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in _TAGS)


def _trailing(text: str) -> int:
    """Characters after the last closing answer tag; 0 where there is none."""
    _, tag, rest = text.rpartition(_TAGS[-1])
    return len(rest) if tag else 0
