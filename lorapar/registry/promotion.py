"""Promotion: production follows a verdict, as long as it still names the incumbent that the verdict is about.

By a run, by hand, back again, and by a share of the requests first.
"""

from __future__ import annotations

from contextlib import suppress

from lorapar.errors import BadInputError, IntegrityError, NotBetterError, StaleError
from lorapar.registry.aliases import AliasRecord
from lorapar.registry.layout import actor
from lorapar.registry.reference import CANDIDATE, PRODUCTION
from lorapar.registry.registry import Registry
from lorapar.registry.verdicts import Incumbent, Promotion, PublishedVersion, Verdict
from lorapar.registry.versions import Version


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
    taken = before.rolled_back(number) if before is not None else None
    if taken is not None and previous != number:
        reason = (
            f"{published.reference} was rolled back from {PRODUCTION} by {taken.by} at {taken.moved_at}, so it is not "
            f"put back by a run; `lorapar adapters promote {published.reference}` does, if that is meant"
        )
        return Promotion(promoted=False, reason=reason, alias=PRODUCTION, version=number, previous=previous)
    version = registry.resolve(published.reference)
    if version.digest != published.digest:
        raise IntegrityError(
            f"{version}: its manifest is not that of the version the gate judged, so {PRODUCTION} stays where it is; "
            "versions never change: find out who replaced it, then publish again"
        )
    expected = verdict.incumbent.version if verdict.incumbent is not None else None
    return _promoted(registry, version, previous, expected, f"gate: {verdict.reasons[0]}")


def promote_by_hand(registry: Registry, version: Version, override: str | None) -> Promotion:
    """Move production to a version whose last verdict is better than what production names now.

    A reason in `override` moves it whatever the verdict is, and is in the alias's history. Raises NotBetterError
    where there is no such verdict, StaleError where it is about another incumbent than production names,
    IntegrityError where the version is damaged.
    """
    if override is not None and not override.strip():
        raise BadInputError("--override is empty; say why, the reason stays in the alias's history")
    record = registry.read_alias(version.name, PRODUCTION)
    now = record.version if record is not None else None
    if override is None and now != version.number:
        _require_verdict(registry, version, now)
    reason = f"by hand: {override}" if override is not None else "by hand, on its verdict"
    return _promoted(registry, version, now, now, reason)


def roll_back(registry: Registry, name: str, alias: str, to: int | None, reason: str) -> AliasRecord:
    """Move an alias back to the version it named before, or to `to`, one of those it named.

    Raises BadInputError where there is none, IntegrityError where that version is damaged: no server could load it.
    """
    record = registry.read_alias(name, alias)
    if record is None:
        raise BadInputError(f"{name}@{alias}: there is no such alias, so nothing to roll back")
    if to == record.version:
        raise BadInputError(f"{name}@{alias}: --to {to}: it names version {to} already; nothing changed")
    target = record.before if to is None else to
    known = sorted({move.version for move in record.history} - {record.version})
    if target is None or target not in known:
        raise BadInputError(
            f"{name}@{alias} names version {record.version} and "
            + (f"has never named version {to}" if to is not None else "has named nothing before it to go back to")
            + (f"; it named {', '.join(map(str, known))} too, `--to NUMBER` goes there" if known else "")
        )
    registry.require_whole(registry.resolve(f"{name}@{target}"))
    moved = registry.move_alias(name, alias, target, expected=record.version, reason=reason, rollback=True)
    if alias == PRODUCTION:
        _end_canary(registry, name, target)
    return moved


def start_canary(registry: Registry, version: Version, percent: float) -> AliasRecord:
    """Name a version `candidate` and give it a share of the requests for the bare name; production stays.

    No verdict is needed. Raises BadInputError for the version that production names, which gets those requests already,
    and IntegrityError for one that is damaged.
    """
    if not 0 <= percent <= 100:
        raise BadInputError(f"--canary {percent:g}: a share of the requests in percent, from 0 to 100")
    production = registry.read_alias(version.name, PRODUCTION)
    if percent and production is not None and production.version == version.number:
        raise BadInputError(
            f"--canary {percent:g}: {PRODUCTION} names {version} already, so all requests for {version.name} go to it; "
            "give a canary to another version"
        )
    if percent:
        registry.require_whole(version)
    registry.set_alias(version.name, CANDIDATE, version.number, reason=f"canary of {percent:g}%")
    reason = "" if percent else f"by hand, by {actor()}"
    return registry.set_share(version.name, CANDIDATE, version.number, percent, reason=reason)


def _promoted(
    registry: Registry, version: Version, previous: int | None, expected: int | None, reason: str
) -> Promotion:
    """Move production, which named `previous` a moment ago, and say so; where it names the version already, say that.

    Every byte of the version is compared with its manifest first.
    """
    if previous == version.number:
        # Its own canary is left where a promotion was killed half-way; one of another version goes on.
        _end_canary(registry, version.name, version.number, only=version.number)
        message = f"{version.name}@{PRODUCTION} already names version {version.number}; nothing changed"
    else:
        registry.require_whole(version)
        registry.move_alias(version.name, PRODUCTION, version.number, expected=expected, reason=reason)
        _end_canary(registry, version.name, version.number)
        came_from = f"version {previous}" if previous is not None else "no version"
        message = f"{version.name}@{PRODUCTION} moved from {came_from} to version {version.number}"
    return Promotion(promoted=True, reason=message, alias=PRODUCTION, version=version.number, previous=previous)


def _end_canary(registry: Registry, name: str, production: int, only: int | None = None) -> None:
    """A canary compares with one version in production; left there, it would come back to life with a rollback."""
    candidate = registry.read_alias(name, CANDIDATE)
    if candidate is not None and candidate.share_percent and only in (None, candidate.version):
        with suppress(StaleError):  # another candidate by now, which has no share
            reason = f"{PRODUCTION} moved to version {production}"
            registry.set_share(name, CANDIDATE, candidate.version, 0.0, reason=reason)


def _require_verdict(registry: Registry, version: Version, now: int | None) -> None:
    verdicts = registry.verdicts(version)
    how = f"; give --override REASON to move {PRODUCTION} anyway"
    if not verdicts:
        raise NotBetterError(f"{version}: no gate has judged it{how}")
    last = verdicts[-1]
    if not last["better"]:
        raise NotBetterError(
            f"{version}: its gate said not better ({next(iter(last.get('reasons', [])), 'no reason given')}){how}"
        )
    seen = last["incumbent"]["version"] if last.get("incumbent") else None
    if seen != now:
        against, names = (f"version {one}" if one is not None else "the base model" for one in (seen, now))
        raise StaleError(f"{version}: gate stale: it was judged against {against}, and production names {names}{how}")
