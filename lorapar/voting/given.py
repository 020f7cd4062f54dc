"""Labels of training rows that do not come from votes: from the data, or by chance. Controls of a study.

Only training rows are assigned like this. Held-out and development rows keep the labels that votes give them, so
metrics and gate compare the same rows as with votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from lorapar.config import SYSTEMS
from lorapar.config.voting import Labels
from lorapar.records import Example, System


def is_voted_on(example: Example, labels: Labels = "votes") -> bool:
    """Whether teachers vote on a row, where `labels` says how training rows get theirs."""
    return Given(labels).asks(example.split, example.known_system)


@dataclass(frozen=True)
class Given:
    """What `voting.labels` gives."""

    labels: Labels = "votes"
    systems: Sequence[System] = SYSTEMS
    seed: int = 0
    """The seed of labels by chance."""

    def asks(self, split: str, known: System | None) -> bool:
        """Whether teachers are asked: not about rows with a label, nor about held-out rows whose system is known."""
        if split != "train":
            return known is None
        return self.labels == "votes" or (self.labels == "data" and known is None)

    def label(self, example_id: str, split: str, known: System | None) -> System | None:
        """The label of a row in place of votes; None where there is none.

        By chance, every system is equally likely, and a row's label depends only on its id and the seed.
        """
        if split != "train" or self.labels == "votes":
            return None
        if self.labels == "data":
            return known
        drawn = int.from_bytes(blake2b(f"{self.seed}\0{example_id}".encode(), digest_size=8).digest())
        return self.systems[drawn % len(self.systems)]
