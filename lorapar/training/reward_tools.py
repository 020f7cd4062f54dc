"""What rewards need from the run around them, and how those are opened that hold something: judges, reward models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import ExecuteConfig, RewardConfig, RlConfig
from lorapar.progress import Progress
from lorapar.store import ObjectStore
from lorapar.training.rewards import PASSES_TESTS, Reward, load_rewards


@dataclass(frozen=True)
class RewardTools:
    """What a run lends its rewards."""

    rule: AnswerRule = EXACT
    """How answers are compared."""
    cache: Path | None = None
    """Folder for what judges said; None: it is remembered in the store alone, or not at all."""
    store: ObjectStore | None = None
    anew: bool = False
    """Whether nothing that was said before is recalled."""
    execute: ExecuteConfig = field(default_factory=ExecuteConfig)
    """The sandbox that code is tested in."""


@contextmanager
def opened_rewards(config: RlConfig, tools: RewardTools, dtype: str, progress: Progress) -> Iterator[list[Reward]]:
    """All rewards of `rl.rewards`, ready; what they hold is closed after the block. `dtype`: of the base model.

    Raises BadInputError and UnreachableError for a reward that cannot be had.
    """
    with ExitStack() as stack:
        opener = _Opener(config.reward_configs(), tools, dtype, progress, stack)
        yield load_rewards(
            config.rewards, tools.rule, max_completion_length=config.max_completion_length, opener=opener
        )


@contextmanager
def opened_judges(
    judges: Mapping[str, RewardConfig], tools: RewardTools, dtype: str, progress: Progress
) -> Iterator[dict[str, Reward]]:
    """The judges and reward models of `evaluate.judges` by name; closed after the block; raises as `opened_rewards`."""
    with ExitStack() as stack:
        opener = _Opener(judges, tools, dtype, progress, stack, "evaluate.judges")
        yield {name: Reward(name, 1.0, opener(name, options)) for name, options in judges.items()}


class _Opener:
    def __init__(
        self,
        configs: Mapping[str, RewardConfig],
        tools: RewardTools,
        dtype: str,
        progress: Progress,
        stack: ExitStack,
        setting: str = "rl.rewards",
    ) -> None:
        self._tools, self._dtype, self._progress, self._stack = tools, dtype, progress, stack
        self._judges = {name: one.judge for name, one in configs.items() if one.judge is not None}
        self._setting = setting
        self._cache: Any = None

    def __call__(self, name: str, options: RewardConfig) -> Any:
        if options.judge is not None:
            from lorapar.training.judge import JudgeReward

            judge = JudgeReward(name, options.judge, self._judge_cache(), self._progress, setting=self._setting)
            self._stack.callback(judge.close)
            return judge
        if name == PASSES_TESTS:
            return self._passes_tests()
        from lorapar.training.reward_model import ModelReward

        if options.reward_model is None:
            raise AssertionError("a reward without judge or model was to be opened")
        return ModelReward(name, options.reward_model, self._dtype, self._progress, self._setting)

    def _passes_tests(self) -> Any:
        from lorapar.training.passes_tests import PassesTests, sandbox_pool

        pool = self._stack.enter_context(sandbox_pool(self._tools.execute))
        if pool.gaps:
            self._progress.log(
                f"warning: generated code could {', '.join(pool.gaps)}, because execute.sandbox is best_effort"
            )
        return PassesTests(pool)

    def _judge_cache(self) -> Any:
        from lorapar.training.judge import judge_cache

        if self._cache is None and (self._tools.cache is not None or self._tools.store is not None):
            folder = self._tools.cache or Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lorapar-judge-"))
            )
            said = judge_cache(self._judges, folder, self._tools.store, anew=self._tools.anew)
            self._cache = self._stack.enter_context(said)
        return self._cache
