"""Teachers vote on the system that an example needs; votes become labels. Importable without torch."""

from lorapar.voting.ballots import quorum_size

__all__ = ["quorum_size"]
