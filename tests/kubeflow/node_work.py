"""Rewards of a run on several nodes; who imports them samples the made-up completions of tests/training/one_rank.py.

What is sampled depends on how many processes there are, and what is learned from the same completions must not.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from one_rank import made_up, parity

from lorapar.ranks import Ranks
from lorapar.training.trainers import CarefulGRPOTrainer

CarefulGRPOTrainer._generate_single_turn = made_up  # type: ignore[method-assign]
calls = 0


def rewarded(completions: list[str], references: list[str]) -> list[float]:
    """As `parity`; where the file KILL names is there, the second node dies in its third step, and the file with it."""
    global calls
    calls += 1
    marker = Path(os.environ.get("KILL", "/none"))
    if calls == 4 and Ranks.here().rank == 1 and marker.exists():
        marker.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
    return parity(completions, references)
