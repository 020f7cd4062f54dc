"""The reward `passes_tests`: code found in completions, run against the tests of its row in a real sandbox."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lorapar.config import ExecuteConfig, RlConfig
from lorapar.errors import BadInputError
from lorapar.progress import Silent
from lorapar.training.columns import Columns
from lorapar.training.passes_tests import code_of
from lorapar.training.reward_tools import RewardTools, opened_rewards
from lorapar.training.rewards import Reward
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob

RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return 5\n"
TESTS = "assert add(2, 3) == 5\nassert add(0, 0) == 0"
TOOLS = RewardTools(execute=ExecuteConfig(wall_seconds=30.0, workers=2))


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        f"<reasoning>easy</reasoning><answer>{RIGHT}</answer>",
        f"<reasoning>\n```\nnot this\n```\n</reasoning>\n<answer>\n```python\n{RIGHT}```\n</answer>",
        f"First:\n```python\n{WRONG}```\nBetter:\n```py\n{RIGHT}```\nDone.",
        f"```python\n{RIGHT}```\nUsage:\n```python\nprint(add(2, 3))\n```",
        f"So:\n```python\n{RIGHT}",
        f"1. so:\n   ```python\n{textwrap.indent(RIGHT, '   ')}   ```\n2. done",
        f"~~~python\n{RIGHT}~~~",
        f'```python title="add.py"\n{RIGHT}```',
        f"The function ```add``` is simple.\n```python\n{RIGHT}```\nDone.",
        f"Use ```add(2,3)``` to call it.\n\n```python\n{RIGHT}```\nDone.",
        f"```add``` is simple.\n```python\n{RIGHT}```\nThen ```add(2, 3)``` is five.\n",
        f"Use `add`: ```python\n{RIGHT}```\nDone.",
        f"- ```python\n{RIGHT}```\n- done",
        f"```python\n{RIGHT}```\nIt writes:\n```text\nresult = 5\n```",
        f"```python\n{RIGHT}```\nUsage:\n```\nx = add(1, 2)\nprint(x)\n```",
    ],
)
def test_the_code_of_a_completion(completion: str) -> None:
    assert code_of(completion).strip() == RIGHT.strip()


@pytest.mark.parametrize(
    "text", ["` ` " * 20_000, "`" * 50_000, "```" + " " * 50_000, "``a`" * 20_000, "```a " * 20_000]
)
def test_fences_without_end_take_no_time(text: str) -> None:
    started = time.process_time()
    code_of(text)
    assert time.process_time() - started < 2.0


@pytest.fixture(scope="module")
def reward() -> Iterator[Reward]:
    with opened_rewards(RlConfig(rewards={"passes_tests": 2.0}), TOOLS, "float32", Silent()) as (found,):
        yield found


def columns(tests: list[str]) -> Columns:
    count = len(tests)
    return Columns(["?"] * count, ["."] * count, [None] * count, [[1]] * count, tests)


def test_one_for_code_that_passes_and_no_say_without_tests(reward: Reward) -> None:
    texts = [RIGHT, f"<answer>{WRONG}</answer>", RIGHT, "no code at all", "", f"```python\n{RIGHT}```"]
    message = reward(texts, [()] * 6, columns([TESTS, TESTS, "", TESTS, TESTS, TESTS]))
    assert message == [1.0, 0.0, None, 0.0, 0.0, 1.0]
    assert reward.weight == 2.0


def test_rl_trains_on_rows_with_tests_and_without_a_short_answer(
    make_job: Callable[..., TrainingJob], kit: Any
) -> None:
    rows = [row.model_copy(update={"reference": None, "tests": TESTS}) for row in kit.sums(6)]
    plain = [row.model_copy(update={"reference": None, "id": f"no-tests-{row.id}"}) for row in kit.sums(2)]
    settings = RlConfig(
        batch_size=4,
        gradient_accumulation=2,
        num_generations=4,
        max_steps=2,
        max_completion_length=6,
        rewards={"passes_tests": 1.0},
    )
    job = make_job()
    metrics = train_rl(job, settings, system1=[], system2=[*rows, *plain], tools=TOOLS)
    assert metrics["rows"] == 6
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["left_out"]["no_reference"] == 2
    assert summary["no_say"]["passes_tests"] == 0
    history = [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert [step["reward_passes_tests"] for step in history] == [0.0, 0.0]  # a random model writes no code


def test_a_sandbox_that_cannot_confine_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from lorapar.evaluation.sandbox import client

    monkeypatch.setattr(client, "managed", lambda printed: ["open a socket"])
    with (
        pytest.raises(BadInputError, match=r"it could open a socket .*execute\.sandbox=best_effort") as raised,
        opened_rewards(RlConfig(rewards={"passes_tests": 2.0}), TOOLS, "float32", Silent()),
    ):
        pass
    assert "\n" not in str(raised.value)
