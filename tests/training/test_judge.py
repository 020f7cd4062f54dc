"""A judge over real HTTP as a reward: its words, its probabilities, its silence, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorapar.config import JudgeConfig, RlConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.progress import Silent
from lorapar.store import open_store
from lorapar.training.columns import Columns
from lorapar.training.judge import JudgeReward, judge_cache
from lorapar.training.reward_tools import RewardTools, opened_rewards
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from tests.voting.api_server import MODEL, Api, serving

OPTIONS = {"attempts": 2, "max_wait_seconds": 1.0}
QUESTION = "Why is the sky blue?"


def says_good(text: str) -> int:
    """The second word, `good`, for completions that speak of light."""
    return int("light" in text.split("Answer to judge:")[-1])


def columns(completions: list[str]) -> Columns:
    count = len(completions)
    return Columns([QUESTION] * count, ["Because of scattering."] * count, [None] * count, [[1]] * count)


def config(api: Api, **changes: Any) -> JudgeConfig:
    return JudgeConfig(endpoint=api.address, model=MODEL, openai={**OPTIONS, "concurrency": 4}, **changes)


def judged(options: JudgeConfig, completions: list[str], cache: Any = None) -> tuple[list[float | None], JudgeReward]:
    judge = JudgeReward("quality", options, cache, Silent())
    try:
        return judge(completions, [()] * len(completions), columns(completions)), judge
    finally:
        judge.close()


def test_completions_earn_what_the_judge_says_and_equal_ones_are_asked_once() -> None:
    with serving(opinion=says_good) as api:
        rewards, judge = judged(config(api), ["Blue light scatters.", "Magic.", "", "Magic.", "It is light!"])
        assert rewards == [1.0, 0.0, 0.0, 0.0, 1.0]
        assert judge.counts() == {"calls": 3, "recalled": 0, "abstained": 0}
        shown = [body["messages"][-1]["content"] for body in api.asked("Magic")]
        assert len(shown) == 1
        assert QUESTION in shown[0]
        assert "A right answer: Because of scattering." in shown[0]
        assert "Say good" in shown[0]
        assert "bad if not" in shown[0]


def test_the_rows_own_answer_can_be_kept_from_it() -> None:
    with serving(opinion=says_good) as api:
        judged(config(api, show_answer=False), ["Magic."])
        assert not api.asked("scattering")


def test_what_it_said_is_remembered_by_content_also_on_another_machine(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    with serving(opinion=says_good) as api:
        options = config(api)
        for folder, completions, calls in (("one", ["light", "dark"], 2), ("two", ["dark", "light", "new"], 1)):
            with judge_cache({"quality": options}, tmp_path / folder, store) as cache:
                rewards, judge = judged(options, completions, cache)
            assert rewards == [float(text == "light") for text in completions]
            assert judge.calls == calls
        changed = config(api, revision="2")
        with judge_cache({"quality": changed}, tmp_path / "one", store) as cache:
            assert judged(changed, ["light"], cache)[1].calls == 1


def test_a_refused_completion_gets_no_say_and_the_others_go_on() -> None:
    def refuses(api: Api, path: str, headers: Any, body: dict[str, Any]) -> Any:
        if "forbidden" not in json.dumps(body):
            return None
        return 200, {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}, {}

    with serving(opinion=says_good, habit=refuses) as api:
        rewards, judge = judged(config(api), ["light", "forbidden", "dark"])
        assert rewards == [1.0, None, 0.0]
        assert judge.counts()["abstained"] == 1


def test_a_judge_that_cannot_be_reached_ends_the_run_in_one_line() -> None:
    with serving(opinion=says_good, always="500") as api, pytest.raises(UnreachableError, match="'quality'"):
        judged(config(api), ["light"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": "Judge."}, "instruction must hold {good}"),
        ({"row": "Question: {question}"}, "row must hold {answer}"),
        ({"endpoint": "judge"}, "endpoint"),
        ({"good": "bad"}, "good and bad need two different"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**{"endpoint": "http://judge:8000/v1", "model": "m", **changes})


def test_names_of_judges() -> None:
    judge = {"judge": {"endpoint": "http://judge:8000/v1", "model": "m"}}
    assert RlConfig(rewards={"quality": {"weight": 2.0, **judge}}).reward_weights == {"quality": 2.0}
    for name in ("exact_answer", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be the name"):
            RlConfig(rewards={name: judge})
    with pytest.raises(ValueError, match="exclude each other"):
        RlConfig(rewards={"both": {**judge, "reward_model": {"name": "m"}}})


def test_rl_learns_from_a_judge_on_rows_without_a_short_answer(
    make_job: Callable[..., TrainingJob], kit: Any, tmp_path: Path
) -> None:
    rows = [row.model_copy(update={"reference": None}) for row in kit.sums(8)]
    with serving(opinion=lambda text: sum(map(ord, text)) % 2) as api:
        judge = config(api).model_dump(exclude_none=True)
        settings = RlConfig(
            batch_size=4,
            gradient_accumulation=2,
            num_generations=4,
            max_steps=2,
            max_completion_length=6,
            rewards={"quality": {"weight": 2.0, "judge": judge}, "exact_answer": 1.0},
        )
        job = make_job()
        metrics = train_rl(job, settings, system1=[], system2=rows, tools=RewardTools(cache=tmp_path / "cache"))
    summary = json.loads((job.output / "summary.json").read_text())
    assert metrics["rows"] == 8
    assert summary["judged"]["quality"]["calls"] > 0
    assert summary["no_say"]["exact_answer"] == summary["completions"] == 16
    assert summary["reward_weights"] == {"quality": 2.0, "exact_answer": 1.0}


def test_an_opened_judge_needs_its_key_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    options = {"endpoint": "http://judge:8000/v1", "model": "m", "openai": {"api_key_env": "JUDGE_KEY"}}
    settings = RlConfig(rewards={"quality": {"judge": options}})
    with pytest.raises(BadInputError, match="JUDGE_KEY"), opened_rewards(settings, RewardTools(), "float32", Silent()):
        pass


def test_what_a_judge_says_and_fails_with_begins_with_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGES_KEY", raising=False)
    options = JudgeConfig(
        endpoint="http://127.0.0.1:9/v1", model=MODEL, openai={**OPTIONS, "api_key_env": "JUDGES_KEY"}
    )
    with pytest.raises(BadInputError, match=r"^rl\.rewards: judge 'quality': the environment variable JUDGES_KEY"):
        judged(options, ["Magic."])
