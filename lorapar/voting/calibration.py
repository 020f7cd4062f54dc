"""A teacher's bias to one label, measured on probe rows and subtracted. Without it a teacher that gives one label to
nearly every row would decide alone.

The bias is the mean over the probe rows of log P(System 1's word) - log P(System 2's word); of several systems, one for
each against the last. It is right to subtract it where the systems are about equally frequent, and hurts where they are
not: the rows' own balance goes with it. So
every vote keeps its label without it, and the tally shows both.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.teacher import label_of

PROBE = "probe.jsonl"
"""The probe rows, beside the votes; the second round measures the other teachers on the same."""


def probe_rows(examples: Iterable[Example], count: int) -> list[Example]:
    """`count` rows chosen by the digests of their contents: the same from the same data in any order, and nearly the
    same once the data have grown.
    """
    return heapq.nsmallest(count, examples, key=_place)


Bias = Mapping[System, float]
"""By system, the mean log-odds against the last one, whose own is 0."""


def bias(votes: Sequence[Vote]) -> Bias:
    """Mean log-odds of each system over the votes; raises BadInputError for votes without log-probabilities."""
    votes = [vote for vote in votes if vote.label is not None]
    if not votes:
        raise BadInputError("voting.calibrate needs rows to measure teachers on, and there are none")
    odds = [_log_odds(vote) for vote in votes]
    return {system: sum(one[system] for one in odds) / len(odds) for system in odds[0]}


def calibrated(vote: Vote, lean: Bias) -> Vote:
    """The vote with `lean` subtracted from its log-odds: label and confidence anew, the old label kept beside it."""
    if vote.label is None:
        return vote
    label, confidence = label_of({system: odds - lean[system] for system, odds in _log_odds(vote).items()})
    return vote.model_copy(update={"label": label, "confidence": confidence, "uncalibrated": vote.label})


def _log_odds(vote: Vote) -> dict[System, float]:
    if vote.log_probs is None or not all(math.isfinite(value) for value in vote.log_probs.values()):
        raise BadInputError(
            f"teacher '{vote.teacher}': its endpoint gives no log-probabilities of the label words, so it cannot be "
            "calibrated; turn voting.calibrate off, take label words of one token at a vLLM server, or another backend"
        )
    last = list(vote.log_probs.values())[-1]
    return {system: value - last for system, value in vote.log_probs.items()}


def _place(example: Example) -> tuple[bytes, str]:
    content = f"{example.asked}\0{example.answer}".encode()
    return hashlib.sha256(content).digest(), example.id
