"""Judge a canary by what this replica saw: failed requests and time to the first byte, against production's."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

from lorapar.serving.settings import ServingSettings

_WINDOW = 500
"""Latest requests of each side that count."""


@dataclass(frozen=True)
class Outcome:
    """How one request ended."""

    failed: bool
    """The server's fault: a status of 500 or more, or an answer that broke off."""
    seconds: float
    """From the request's arrival to the first byte of the answer's body."""


@dataclass
class Arm:
    """The latest requests of one side."""

    outcomes: deque[Outcome] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    @property
    def failed_share(self) -> float:
        """Failed requests among all; 0 where there was none."""
        return sum(outcome.failed for outcome in self.outcomes) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def median_seconds(self) -> float:
        """Median of those that did not fail; 0 where there is none."""
        return statistics.median([outcome.seconds for outcome in self.outcomes if not outcome.failed] or [0.0])


@dataclass
class CanaryGuard:
    """Both sides of one canary, from its start."""

    candidate: Arm = field(default_factory=Arm)
    production: Arm = field(default_factory=Arm)

    def verdict(self, settings: ServingSettings) -> str | None:
        """Why the canary must end, in words; None while nothing speaks against it."""
        needed = settings.canary_requests
        if len(self.candidate.outcomes) < needed:
            return None
        failed, usual = self.candidate.failed_share, self.production.failed_share
        if failed > usual + settings.canary_error_increase:
            return f"{failed:.1%} of {len(self.candidate.outcomes)} requests failed, {usual:.1%} of production's"
        if len(self.production.outcomes) < needed:
            return None
        median, usual = self.candidate.median_seconds, self.production.median_seconds
        if median > usual * settings.canary_latency_ratio:
            return f"median time to the first byte {median:.3f} s, production's {usual:.3f} s"
        return None
