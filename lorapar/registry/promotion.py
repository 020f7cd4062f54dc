"""Promotion: production follows a verdict, as long as it still names the incumbent that the verdict is about."""

from __future__ import annotations

from lorapar.registry.reference import PRODUCTION
from lorapar.registry.registry import Registry
from lorapar.registry.verdict import Incumbent, Promotion, PublishedVersion, Verdict


def incumbent_for(registry: Registry, name: str, candidate: int) -> Incumbent | None:
    """What a candidate has to beat: the version production names; where that is the candidate, the one before it.

    So a run that is repeated after its promotion compares the same two again, and reuses its evaluation.
    """
    record = registry.read_alias(name, PRODUCTION)
    if record is None:
        return None
    number = record.before if record.version == candidate else record.version
    digest = next((move.digest for move in record.moves if move.version == number), None)
    return None if number is None or digest is None else Incumbent(version=number, digest=digest)


def promote(registry: Registry, published: PublishedVersion, verdict: Verdict) -> Promotion:
    """Move production to the version of a verdict; raises StaleError where it no longer names what the verdict saw."""
    number = published.version
    before = registry.read_alias(published.name, PRODUCTION)
    previous = before.version if before is not None else None

    def said(promoted: bool, reason: str) -> Promotion:
        return Promotion(promoted=promoted, reason=reason, alias=PRODUCTION, version=number, previous=previous)

    taken = before.rolled_back(number) if before is not None else None
    if taken is not None and previous != number:
        return said(
            False,
            f"{published.reference} was rolled back from {PRODUCTION} by {taken.by} at {taken.moved_at}, so it is not "
            f"put back by a run; `lorapar adapters promote {published.reference}` does, if that is meant",
        )
    if previous == number:
        return said(True, f"{published.name}@{PRODUCTION} names version {number} already")
    expected = verdict.incumbent.version if verdict.incumbent is not None else None
    registry.move_alias(published.name, PRODUCTION, number, expected=expected, reason=f"gate: {verdict.reasons[0]}")
    came_from = f"version {previous}" if previous is not None else "no version"
    return said(True, f"{published.name}@{PRODUCTION} moved from {came_from} to version {number}")
