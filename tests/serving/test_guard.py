"""When a canary must end."""

from __future__ import annotations

import pytest

from lorapar.serving import ServingSettings
from lorapar.serving.guard import CanaryGuard, Outcome

SETTINGS = ServingSettings(
    registry="r", canary_requests=20, canary_error_increase=0.05, canary_latency_ratio=1.5, adapters="task"
)


def guard(candidate: list[Outcome], production: list[Outcome]) -> CanaryGuard:
    both = CanaryGuard()
    both.candidate.outcomes.extend(candidate)
    both.production.outcomes.extend(production)
    return both


def outcomes(failed: int, of: int, seconds: float = 1.0) -> list[Outcome]:
    return [Outcome(number < failed, seconds) for number in range(of)]


@pytest.mark.parametrize(
    ("candidate", "production", "ends"),
    [
        (outcomes(19, 19), outcomes(0, 100), False),  # too few to say
        (outcomes(2, 20), outcomes(0, 100), True),  # 10% against none
        (outcomes(1, 20), outcomes(0, 100), False),  # 5% is not above 5%
        (outcomes(2, 20), outcomes(8, 100), False),  # production fails as often
        (outcomes(20, 20), [], True),  # all requests go to the canary
        (outcomes(0, 20, 1.6), outcomes(0, 20, 1.0), True),
        (outcomes(0, 20, 1.4), outcomes(0, 20, 1.0), False),
        (outcomes(0, 20, 1.6), outcomes(0, 19, 1.0), False),  # nothing to compare with yet
    ],
)
def test_canary_ends_where_it_is_worse(candidate: list[Outcome], production: list[Outcome], ends: bool) -> None:
    assert (guard(candidate, production).verdict(SETTINGS) is not None) == ends


def test_reason_is_in_words() -> None:
    assert guard(outcomes(5, 20), outcomes(1, 100)).verdict(SETTINGS) == (
        "25.0% of 20 requests failed, 1.0% of production's"
    )


def test_only_the_latest_requests_count() -> None:
    both = guard(outcomes(20, 20), outcomes(0, 100))
    both.candidate.outcomes.extend(outcomes(0, 500))
    assert both.verdict(SETTINGS) is None


@pytest.mark.parametrize(
    ("candidate", "production", "ends"),
    [
        ([0.0] * 19, [1.0] * 100, False),  # too few to say
        ([0.0] * 20, [1.0] * 20, True),
        ([0.0] * 20, [1.0] * 19, False),  # nothing to compare with yet
        ([1.0] * 20, [0.0] * 20, False),  # better
        ([0.50] * 20, [0.54] * 20, False),  # below by less than the setting
        ([0.0, 1.0] * 10, [0.0, 1.0, 1.0] * 7, False),  # 0.50 against 0.67, which chance makes of equals
        ([0.0, 1.0] * 100, [0.0, 1.0, 1.0] * 70, True),  # the same, seen ten times as often
    ],
)
def test_canary_ends_where_its_answers_are_worse(candidate: list[float], production: list[float], ends: bool) -> None:
    both = guard(outcomes(0, 20), outcomes(0, 20))
    both.candidate.rewards.extend(candidate)
    both.production.rewards.extend(production)
    reason = both.verdict(SETTINGS)
    assert (reason is not None) == ends
    assert reason is None or reason.startswith("mean reward of")
