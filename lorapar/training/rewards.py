"""The rewards of RL: the paper's five, TRL's, and your own by import path (Huang et al. 2025, section 4.2).

A reward looks at completions (texts) and references (the short exact answers, one for each completion) and gives one
number a completion, 1.0 for all that it asks for, or None where it cannot judge one. The settings weigh it: the paper's
2.0 for the exact answer and 0.5 for each of the four others are the defaults of `rl.rewards`. The four follow
W. Brown's "grpo_demo.py", with one difference: white space between tags is free, because the paper shows tags and not
line breaks.

Rewards of TRL (`trl.rewards:accuracy_reward`) get what TRL's trainers give them: completions as chat messages and their
token ids, the prompts, and `solution`, which is the row's short answer or, where it has none, its whole one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from lorapar.answers import References, as_number, extract_tagged, first_reference
from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import RewardConfig
from lorapar.config.rewards import TRL_REWARDS
from lorapar.errors import BadInputError, nearest
from lorapar.training.columns import Columns
from lorapar.training.own_rewards import OwnReward, RewardError, RewardFunction

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
    answers = [extract_tagged(text) for text in completions]
    pairs = [(text, ref) for text, ref in zip(answers, references, strict=True) if text is not None]
    verdicts = iter(rule.are_answers(pairs))
    right = [float(text is not None and next(verdicts)) for text in answers]
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
    """0.25 for each of the four tags that is there exactly once, less 0.002 a character after the closing tag."""
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
        """A finite number a completion, before weighing, or None where the reward does not judge.

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


_GIVEN = frozenset({"completions", "completion_ids", "prompts", "solution", "log_extra", "log_metric", "trainer_state"})
_LENGTHS = frozenset({"max_len", "max_completion_len"})
"""What functions that make a reward call the longest completion in tokens."""


def trl_reward_names() -> list[str]:
    """What the installed TRL has in `trl.rewards`."""
    import trl.rewards

    return sorted(name for name in trl.rewards.__all__ if inspect.isroutine(getattr(trl.rewards, name)))


@dataclass(frozen=True)
class TrlReward:
    """A reward of TRL."""

    reward: OwnReward
    takes_columns = True

    @classmethod
    def find(cls, key: str, options: Mapping[str, Any], max_completion_length: int) -> TrlReward:
        """The reward `trl.rewards:NAME`; a function that makes one is called with the options.

        Raises BadInputError where TRL has no such reward, an option is none of its arguments, or one is missing.
        """
        import trl.rewards

        name, known = key.removeprefix(TRL_REWARDS), trl_reward_names()
        if name not in known:
            raise BadInputError(
                f"rl.rewards: trl.rewards has no {name}{nearest(name, known)}; it has {', '.join(known)}"
            )
        function = getattr(trl.rewards, name)
        arguments = inspect.signature(function).parameters
        free = {one for one, about in arguments.items() if about.kind is not about.VAR_KEYWORD} - _GIVEN
        if unknown := sorted(set(options) - free):
            takes = f"its options are {', '.join(sorted(free))}" if free else "it has no options"
            raise BadInputError(f"rl.rewards.{key}.options: {name} does not take {', '.join(unknown)}; {takes}")
        if _GIVEN & set(arguments):
            fixed = dict(options)
            return cls(OwnReward(key, lambda **given: function(**given, **fixed)))
        made = {**dict.fromkeys(_LENGTHS & free, max_completion_length), **options}
        missing = [one for one in sorted(free) if arguments[one].default is inspect.Parameter.empty and one not in made]
        if missing:
            raise BadInputError(
                f"rl.rewards: {name} needs {', '.join(missing)}; write it as {key}: {{weight: 1.0, options: "
                f"{{{', '.join(f'{one}: …' for one in missing)}}}}}"
            )
        return cls(OwnReward(key, _made(key, function, made)))

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns
    ) -> list[float | None]:
        """As `OwnReward`."""
        solutions = [
            first_reference(one) if one else answer for one, answer in zip(references, columns.answers, strict=True)
        ]
        given = {
            "prompts": columns.prompts,
            "completions": [[{"role": "assistant", "content": text}] for text in completions],
            "completion_ids": columns.completion_ids,
            "solution": solutions,
        }
        return self.reward.checked(lambda: self.reward.function(**given), len(completions))


def _made(key: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = function(**arguments)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"rl.rewards.{key}.options: {' '.join(str(error).split())}") from None
    return made
