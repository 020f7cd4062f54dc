"""Judge a canary by its answers: a reward or a judge sees a sample of answers of both sides.

It never delays a request: it judges one answer at a time, a few may wait, and the rest of the sample is not judged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorapar.config.load import parse_settings, read_text
from lorapar.config.mistakes import validated
from lorapar.config.rewards import JudgeConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.progress import Silent
from lorapar.serving.assembled import answer_of, question_of
from lorapar.serving.settings import PREFIX, ServingSettings

logger = logging.getLogger(f"vllm.{__name__}")
VARIABLE = PREFIX + "CANARY_REWARD"
LONGEST_ANSWER_BYTES = 1 << 20
"""The longest answer, as the server sends it, that is judged."""
_MOST_WAITING = 16

Reward = Callable[[str, str], float | None]
"""A function from a question and an answer to a number, or to None where it cannot judge."""


class AnswerReward:
    """The reward that the settings name, computed for a sample of answers, one at a time."""

    def __init__(self, reward: Reward, share_percent: float) -> None:
        self._reward, self._share = reward, share_percent / 100
        self._working = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned: set[str] = set()

    @classmethod
    def of(cls, settings: ServingSettings, environment: Mapping[str, str] = os.environ) -> AnswerReward | None:
        """None where no reward is set; raises BadInputError for one that does not exist."""
        if not settings.canary_reward:
            return None
        reward = _judge(settings.canary_reward, environment) if _is_file(settings.canary_reward) else None
        return cls(reward or _own(settings.canary_reward), settings.canary_reward_share_percent)

    def takes(self) -> bool:
        """Whether the next answer belongs to the sample."""
        return len(self._tasks) < _MOST_WAITING and random.random() < self._share

    def see(self, request: Mapping[str, Any], answer: bytes, then: Callable[[float], None]) -> None:
        """Judge an answer later and call `then` with its reward; skips answers without a text or a reward."""
        task = asyncio.create_task(self._see(question_of(request), answer, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Wait until nothing is left to judge."""
        await asyncio.gather(*self._tasks)

    async def _see(self, question: str, answer: bytes, then: Callable[[float], None]) -> None:
        text = answer_of(answer)
        if text is None:
            return
        async with self._working:
            try:
                value = await asyncio.to_thread(self._reward, question, text)
            except LoraparError as error:
                self._warn_once(str(error).replace("rl.rewards:", f"{VARIABLE}:", 1))
                return
        if value is not None:
            then(value)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("an answer is not judged: %s", message)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml", ".json"))


def _own(name: str) -> Reward:
    """A reward function like those of `rl.rewards`: (completions, references), with empty references."""
    from lorapar.training.columns import Columns
    from lorapar.training.own_rewards import OwnReward

    if ":" not in name:
        raise BadInputError(
            f"{VARIABLE}: '{name}' is neither package.module:function nor a file of a judge (.yaml); name one of them"
        )
    try:
        found = replace(OwnReward.find(name), names_itself_when_slow=False)
    except BadInputError as error:
        raise BadInputError(str(error).replace("rl.rewards:", f"{VARIABLE}:", 1)) from None

    def reward(question: str, answer: str) -> float | None:
        prompt = [{"role": "user", "content": question}]
        columns = Columns(questions=[question], answers=[""], prompts=[prompt], completion_ids=[()])
        return found([answer], [""], columns)[0]

    return reward


def _judge(file: str, environment: Mapping[str, str]) -> Reward:
    """A judge like that of `rl.rewards`: the file holds the keys below `judge:` there."""
    from lorapar.training.columns import Columns
    from lorapar.training.judge import JudgeReward

    origin = f"{VARIABLE}: {file}"
    options = validated(JudgeConfig, parse_settings(read_text(Path(file), VARIABLE), origin), origin)
    judge = JudgeReward("canary", options, None, Silent(), environment)

    def reward(question: str, answer: str) -> float | None:
        columns = Columns(questions=[question], answers=[""], prompts=[None], completion_ids=[()])
        return judge([answer], [""], columns)[0]

    return reward
