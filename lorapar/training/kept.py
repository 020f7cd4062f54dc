"""What ends a step from outside: the state before it is kept, and the same command goes on from there."""

from __future__ import annotations

from lorapar.errors import UnreachableError
from lorapar.training.own_rewards import RewardError


class RolloutsLostError(UnreachableError):
    """The server that samples the completions does not answer, or refuses, in the middle of training."""


KEPT = (RewardError, RolloutsLostError)
"""Errors that say nothing against the adapter: with them no `last_good` is needed."""
