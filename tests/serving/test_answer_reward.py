"""A reward or a judge sees a sample of answers while a canary runs, and ends it where its answers are worse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lorapar.errors import BadInputError
from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.answer_reward import AnswerReward, answer_of, question_of
from tests.voting.api_server import MODEL, serving

from .conftest import FakeVllm, started

REWARDS = """
def is_polite(completions, references):
    return [float("please" in text) for text in completions]

def breaks(completions, references):
    raise ValueError("no such word")
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with rewards of a person's own."""
    (tmp_path / "rewards_of_a_server.py").write_text(REWARDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "rewards_of_a_server"


def run_canary(vllm: FakeVllm, settings: ServingSettings, registry: Registry) -> tuple[float, str]:
    """Forty requests to a candidate with half of them; the share it is left with, and why."""

    async def scenario() -> tuple[float, str]:
        async with started(vllm, settings) as site:
            registry.set_share("task", "candidate", 2, 50.0)
            await site.look()
            await asyncio.gather(*[site.ask("task", user=str(number), prompt="Pass the salt") for number in range(40)])
            if site.middleware.reward is not None:
                await site.middleware.reward.drained()
            await asyncio.gather(*site.middleware.follower._returning)  # type: ignore[union-attr]
            record = registry.read_alias("task", "candidate")
            assert record is not None
            return record.share_percent, record.share_reason

    return asyncio.run(scenario())


def judged(settings: ServingSettings, reward: str) -> ServingSettings:
    more = {"canary_reward": reward, "canary_reward_share_percent": 100.0, "canary_latency_ratio": 1000.0}
    return settings.model_copy(update=more)


def test_canary_with_worse_answers_is_returned(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry, rewards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorapar.serving.answer_reward._MOST_WAITING", 100)
    vllm.texts = {"task@1": "Here, please", "task@2": "No"}
    share, why = run_canary(vllm, judged(settings, f"{rewards}:is_polite"), registry)
    assert share == 0.0
    assert "mean reward" in why


def test_answers_are_not_looked_at_unless_asked(vllm: FakeVllm, settings: ServingSettings, registry: Registry) -> None:
    vllm.texts = {"task@1": "Here, please", "task@2": "No"}
    settings = settings.model_copy(update={"canary_latency_ratio": 1000.0})
    assert run_canary(vllm, settings, registry)[0] == 50.0


def test_reward_that_fails_ends_no_canary_and_is_reported_once(
    vllm: FakeVllm, settings: ServingSettings, registry: Registry, rewards: str, caplog: pytest.LogCaptureFixture
) -> None:
    vllm.texts = {"task@1": "Here, please", "task@2": "No"}
    assert run_canary(vllm, judged(settings, f"{rewards}:breaks"), registry)[0] == 50.0
    assert caplog.text.count("LORAPAR_SERVING_CANARY_REWARD: rewards_of_a_server:breaks failed: ValueError") == 1


def test_judge_behind_an_endpoint_sees_question_and_answer(settings: ServingSettings, tmp_path: Path) -> None:
    with serving(opinion=lambda text: int("please" in text)) as api:
        file = tmp_path / "judge.yaml"
        file.write_text(f"endpoint: {api.address}\nmodel: {MODEL}\n", encoding="utf-8")
        reward = AnswerReward.of(judged(settings, str(file)))
        assert reward is not None
        values = reward._reward("Pass the salt", "Here, please"), reward._reward("Pass the salt", "No")
        assert values == (1.0, 0.0)
        assert len(api.asked("Pass the salt")) == 2


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        ("polite", "is neither package.module:function nor a file of a judge"),
        ("no_such_module:polite", "CANARY_REWARD: no_such_module:polite cannot be imported"),
        ("missing.yaml", "CANARY_REWARD: there is no file missing.yaml"),
    ],
)
def test_reward_that_is_not_there_is_refused_at_the_start(
    settings: ServingSettings, reward: str, complaint: str
) -> None:
    with pytest.raises(BadInputError, match=complaint):
        AnswerReward.of(judged(settings, reward))


def test_judge_without_an_endpoint_is_refused(settings: ServingSettings, tmp_path: Path) -> None:
    (tmp_path / "judge.yaml").write_text("model: judge\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="endpoint: is missing"):
        AnswerReward.of(judged(settings, str(tmp_path / "judge.yaml")))


def event(content: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (json.dumps({"choices": [{"index": 0, "message": {"content": "Yes"}}]}).encode(), "Yes"),
        (json.dumps({"choices": [{"index": 1, "text": "No"}, {"index": 0, "text": "Yes"}]}).encode(), "Yes"),
        (event("Ye") + event("s") + b"data: [DONE]\n\n", "Yes"),
        (b"data: [DONE]\n\n", None),
        (b'{"data": [0.5]}', None),
        (b"\xff", None),
    ],
)
def test_text_of_an_answer(body: bytes, text: str | None) -> None:
    assert answer_of(body) == text


@pytest.mark.parametrize(
    ("request_body", "question"),
    [
        ({"prompt": "Pass the salt"}, "Pass the salt"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "b"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]}, "b"),
        ({"messages": [{"role": "system", "content": "s"}]}, ""),
        ({"prompt": [1, 2, 3]}, ""),
        ({"messages": "?"}, ""),
    ],
)
def test_question_of_a_request(request_body: dict[str, Any], question: str) -> None:
    assert question_of(request_body) == question
