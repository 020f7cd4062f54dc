"""The rewards of RL: the paper's five, and a person's own by import path (Huang et al. 2025, section 4.2).

A reward looks at completions (texts) and references (the short exact answers, one for each completion) and gives one
number a completion, 1.0 for all that it asks for. The settings weigh it: the paper's 2.0 for the exact answer and 0.5
for each of the four others are the defaults of `rl.rewards`. The four follow W. Brown's "grpo_demo.py", with one
difference: white space between tags is free, because the paper shows tags and not line breaks.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from lorapar.answers import as_number, extract_tagged, same_answer
from lorapar.errors import BadInputError, nearest

RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float]]

_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_BLOCKS = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.DOTALL)
# The paper takes 0.001 a character off a reward whose tags are worth 4 x 0.125 = 0.5 in all.
_TRAILING_PENALTY = 0.001 / 0.5


def exact_answer(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where the text inside the answer tags equals the reference, numbers compared as numbers."""
    pairs = zip(completions, references, strict=True)
    return [float((answer := extract_tagged(text)) is not None and same_answer(answer, ref)) for text, ref in pairs]


def integer_answer(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where the text inside the answer tags is a whole number, right or wrong."""
    return [float(_is_integer(extract_tagged(text))) for text in completions]


def strict_format(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where the completion is one reasoning block, one answer block and nothing else but white space."""
    return [float(_BLOCKS.fullmatch(text.strip()) is not None and _each_tag_once(text)) for text in completions]


def soft_format(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where an answer block follows a reasoning block somewhere in the completion."""
    return [float(_BLOCKS.search(text) is not None) for text in completions]


def tag_count(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """0.25 for each of the four tags that stands there exactly once, less 0.002 a character after the closing tag."""
    return [
        sum(text.count(tag) == 1 for tag in _TAGS) / 4 - _TRAILING_PENALTY * _trailing(text) for text in completions
    ]


REWARDS: Mapping[str, RewardFunction] = {
    function.__name__: function for function in (exact_answer, integer_answer, strict_format, soft_format, tag_count)
}
"""The rewards that can be named in `rl.rewards` without an import path."""


@dataclass(frozen=True)
class Reward:
    """A reward as the settings name and weigh it."""

    name: str
    weight: float
    function: RewardFunction

    def __call__(self, completions: Sequence[str], references: Sequence[str]) -> list[float]:
        """One finite number a completion, before weighing; raises BadInputError where the function gives less."""
        values = self.function(completions, references)
        if not isinstance(values, Sequence) or len(values) != len(completions):
            raise BadInputError(
                f"rl.rewards: {self.name} must return a list of one number a completion, got {_kind(values)} for "
                f"{len(completions)} completions"
            )
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise BadInputError(f"rl.rewards: {self.name} must return finite numbers, got {value!r}")
        return [float(value) for value in values]


def load_rewards(weights: Mapping[str, float]) -> list[Reward]:
    """The rewards of `rl.rewards`, each tried out once, so that a faulty one stops the run before anything is trained.

    A key is one of `REWARDS` or an import path `package.module:function` of a function with the same parameters.
    Raises BadInputError naming the reward that cannot be imported, called, or does not return what it must.
    """
    rewards = [Reward(name, weight, _find(name)) for name, weight in weights.items()]
    for reward in rewards:
        _try_out(reward)
    return rewards


def _find(name: str) -> RewardFunction:
    if name in REWARDS:
        return REWARDS[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        known = list(REWARDS)
        raise BadInputError(
            f"rl.rewards: '{name}' is no reward{nearest(name, known)}; one of {', '.join(known)}, or an import path "
            "like package.module:function"
        )
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise BadInputError(f"rl.rewards: {name} cannot be imported ({error}); install it or set PYTHONPATH") from None
    except AttributeError:
        raise BadInputError(f"rl.rewards: {module_name} has no function called {function_name}") from None
    except Exception as error:
        # A person's own module: whatever is wrong in it is theirs to mend, and a line is more use than our traceback.
        raise BadInputError(f"rl.rewards: importing {module_name} fails: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise BadInputError(f"rl.rewards: {name} is a {type(function).__name__}, not a function")
    found: RewardFunction = function
    return found


def _try_out(reward: Reward) -> None:
    """Call it with a good, a wrong and an empty completion: the shapes that RL will show it."""
    texts = ["<reasoning>3+4=7</reasoning><answer>7</answer>", "I do not know.", ""]
    try:
        reward(texts, ["7"] * len(texts))
    except BadInputError:
        raise
    except Exception as error:  # a person's own code may fail in any way
        raise BadInputError(
            f"rl.rewards: {reward.name} fails when called with completions and references "
            f"({type(error).__name__}: {error})"
        ) from error


def _is_integer(answer: str | None) -> bool:
    number = None if answer is None else as_number(answer)
    return number is not None and number == number.to_integral_value()


def _each_tag_once(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in _TAGS)


def _trailing(text: str) -> int:
    """Characters after the last closing answer tag; 0 where there is none."""
    _, tag, rest = text.rpartition(_TAGS[-1])
    return len(rest) if tag else 0


def _kind(values: object) -> str:
    return f"{len(values)} values" if isinstance(values, Sequence) else f"a {type(values).__name__}"
