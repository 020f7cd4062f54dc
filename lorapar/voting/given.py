"""Labels of training rows that come from elsewhere than votes: from the data, or by chance. Controls of a study.

Only training rows are assigned so. Held-out and development rows keep the labels that they have with votes, so that
figures and gate compare what they would have compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from lorapar.config import SYSTEMS
from lorapar.config.voting import Labels
from lorapar.records import Example, System


def is_voted_on(example: Example, labels: Labels = "votes") -> bool:
    """Whether teachers are asked about a row, where training rows get their labels so."""
    return Given(labels).asks(example.split, example.known_system)


@dataclass(frozen=True)
class Given:
    """What `voting.labels` gives."""

    labels: Labels = "votes"
    systems: Sequence[System] = SYSTEMS
    seed: int = 0
    """Seed of labels by chance."""

    def asks(self, split: str, known: System | None) -> bool:
        """Whether teachers are asked: about all but rows with a label, and held-out rows whose system is known."""
        if split != "train":
            return known is None
        return self.labels == "votes" or (self.labels == "data" and known is None)

    def label(self, example_id: str, split: str, known: System | None) -> System | None:
        """The label of a row in place of votes; None where there is none.

        By chance each system is as likely as any other, whatever rows stand beside: a row's label depends on its id
        and the seed alone.
        """
        if split != "train" or self.labels == "votes":
            return None
        if self.labels == "data":
            return known
        drawn = int.from_bytes(blake2b(f"{self.seed}\0{example_id}".encode(), digest_size=8).digest())
        return self.systems[drawn % len(self.systems)]
