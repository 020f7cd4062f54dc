"""The rewards of TRL (`trl.rewards`), by name: `trl.rewards:accuracy_reward`. Which there are is TRL's to say.

They get what TRL's trainers give them: completions as chat messages and their token ids, the prompts, and `solution`,
which is the row's short answer or, where it has none, its whole one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.answers import References, first_reference
from lorapar.config.rewards import TRL_REWARDS
from lorapar.errors import BadInputError, nearest
from lorapar.training.columns import Columns
from lorapar.training.own_rewards import OwnReward

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
