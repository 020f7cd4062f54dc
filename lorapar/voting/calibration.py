"""A teacher's bias to one label, measured on probe rows and subtracted. Without it a teacher that gives one label to
nearly every row would decide alone.

The bias is the mean over the probe rows of log P(System 1's word) - log P(System 2's word). It is right to subtract
it where both systems are about equally frequent, and hurts where they are not: the rows' own balance goes with it. So
every vote keeps its label without it, and the tally shows both.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Sequence

from lorapar.errors import BadInputError
from lorapar.records import Example, Vote
from lorapar.voting.teacher import label_of

PROBE = "probe.jsonl"
"""The probe rows, beside the votes; the second round measures the other teachers on the same."""


def probe_rows(examples: Iterable[Example], count: int) -> list[Example]:
    """`count` rows chosen by the digests of their contents: the same from the same data in any order, and nearly the
    same once the data have grown.
    """
    return heapq.nsmallest(count, examples, key=_place)


def bias(votes: Sequence[Vote]) -> float:
    """Mean log-odds of System 1 over the votes; raises BadInputError for votes without log-probabilities."""
    votes = [vote for vote in votes if vote.label is not None]
    if not votes:
        raise BadInputError("voting.calibrate needs rows to measure teachers on, and there are none")
    return sum(_log_odds(vote) for vote in votes) / len(votes)


def calibrated(vote: Vote, lean: float) -> Vote:
    """The vote with `lean` subtracted from its log-odds: label and confidence anew, the old label kept beside it."""
    if vote.label is None:
        return vote
    odds = _log_odds(vote) - lean
    label, confidence = label_of({"system1": odds, "system2": 0.0})
    return vote.model_copy(update={"label": label, "confidence": confidence, "uncalibrated": vote.label})


def _log_odds(vote: Vote) -> float:
    if vote.log_probs is None or not all(math.isfinite(value) for value in vote.log_probs.values()):
        raise BadInputError(
            f"teacher '{vote.teacher}': its endpoint gives no log-probabilities of the label words, so it cannot be "
            "calibrated; turn voting.calibrate off, take label words of one token at a vLLM server, or another backend"
        )
    return vote.log_probs["system1"] - vote.log_probs["system2"]


def _place(example: Example) -> tuple[bytes, str]:
    content = f"{example.asked}\0{example.answer}".encode()
    return hashlib.sha256(content).digest(), example.id
