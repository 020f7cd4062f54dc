"""Judge a canary by this replica's requests, compared with production's: failures, time to first byte, rewards."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from lorapar.serving.settings import ServingSettings

_WINDOW = 500
"""How many of the latest requests of each side count."""
_ONE_SIDED_5_PERCENT = 1.645
"""How many standard errors a difference must be away from zero."""


@dataclass(frozen=True)
class Outcome:
    """How one request ended."""

    failed: bool
    """A fault of the server: a status of 500 or more, or an answer that broke off."""
    seconds: float
    """From the request's arrival to the first byte of the answer's body."""


@dataclass
class Arm:
    """The latest requests of one side, candidate or production."""

    outcomes: deque[Outcome] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    rewards: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    """Rewards of the judged answers."""

    @property
    def failed_share(self) -> float:
        """The share of failed requests; 0 without requests."""
        return sum(outcome.failed for outcome in self.outcomes) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def median_seconds(self) -> float:
        """The median time of requests that did not fail; 0 without such requests."""
        return statistics.median([outcome.seconds for outcome in self.outcomes if not outcome.failed] or [0.0])


@dataclass
class CanaryGuard:
    """Both sides of one canary, from its start."""

    candidate: Arm = field(default_factory=Arm)
    production: Arm = field(default_factory=Arm)

    def verdict(self, settings: ServingSettings) -> str | None:
        """Why the canary must end, in words; None while it may go on."""
        needed = settings.canary_requests
        if len(self.candidate.outcomes) < needed:
            return None
        failed, usual = self.candidate.failed_share, self.production.failed_share
        if failed > usual + settings.canary_error_increase:
            return f"{failed:.1%} of {len(self.candidate.outcomes)} requests failed, {usual:.1%} of production's"
        if reason := self._worse_answers(settings):
            return reason
        if len(self.production.outcomes) < needed:
            return None
        median, usual = self.candidate.median_seconds, self.production.median_seconds
        if median > usual * settings.canary_latency_ratio:
            return f"median time to the first byte {median:.3f} s, production's {usual:.3f} s"
        return None

    def _worse_answers(self, settings: ServingSettings) -> str | None:
        """Worse by more than the setting, and by more than equal sides differ by chance 1 time in 20."""
        mine, usual = self.candidate.rewards, self.production.rewards
        if min(len(mine), len(usual)) < max(2, settings.canary_requests):
            return None
        means = statistics.fmean(mine), statistics.fmean(usual)
        difference = means[1] - means[0]
        error = math.sqrt(statistics.variance(mine) / len(mine) + statistics.variance(usual) / len(usual))
        if difference <= settings.canary_reward_decrease or difference <= _ONE_SIDED_5_PERCENT * error:
            return None
        return f"mean reward of {len(mine)} answers {means[0]:.3f}, production's {means[1]:.3f}"
