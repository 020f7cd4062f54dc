"""Aliases: names that move from version to version by compare-and-swap, and remember every move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from lorapar.errors import StaleError, UnreachableError
from lorapar.registry.layout import actor, alias_key, aliases_prefix, checked
from lorapar.registry.versions import Version
from lorapar.store import NotFoundError, ObjectStore, require_conditional_writes

_ATTEMPTS = 50
"""Lost races after which the store is taken to be broken: each means that another mover won."""

_REMEDY = (
    "bring back an earlier state of this object where the bucket keeps them, or delete it (its history is lost) and "
    "name the version again: `lorapar adapters promote NAME@3 --override REASON`, or for `candidate` the next run"
)


class Move(BaseModel):
    """One move of an alias."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    version: int
    digest: str
    moved_at: str
    by: str
    reason: str = ""
    rollback: bool = False


class AliasRecord(Move):
    """aliases/<alias>.json: the last move, and those before it."""

    schema_version: int = 1
    share_percent: float = Field(0.0, ge=0.0, le=100.0)
    """Share of the requests for the bare name that a canary gives this version."""
    share_reason: str = ""
    """Why the share is what it is, where somebody said so: a server that ended the canary does."""
    history: tuple[Move, ...] = ()
    """Earlier moves, oldest first."""

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every move, oldest first."""
        return (*self.history, Move.model_validate(self.model_dump(include=set(Move.model_fields))))

    @property
    def standing(self) -> list[int]:
        """Versions a rollback would pass through, the present one last: a move puts one on, a rollback takes off."""
        stack: list[int] = []
        for move in self.moves:
            if move.rollback and move.version in stack:
                del stack[stack.index(move.version) + 1 :]
            elif not stack or stack[-1] != move.version:
                stack.append(move.version)
        return stack

    @property
    def before(self) -> int | None:
        """The version it named before the present one; None where it named none."""
        return self.standing[-2] if len(self.standing) > 1 else None

    def rolled_back(self, version: int) -> Move | None:
        """The rollback that took a version away; None where none did, or it was put back since."""
        found: Move | None = None
        for earlier, move in zip(self.moves, self.moves[1:], strict=False):
            if move.rollback and earlier.version == version:
                found = move
            elif move.version == version:
                found = None
        return found


class Aliases:
    """The aliases of all adapters in one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, name: str, alias: str) -> AliasRecord | None:
        """What an alias names; None where there is no such alias."""
        return self._read(name, alias)[0]

    def names(self, name: str) -> list[str]:
        """Names of the aliases of an adapter; what they hold is not read."""
        prefix = aliases_prefix(name)
        return [entry.key.removeprefix(prefix).removesuffix(".json") for entry in self._store.list(prefix)]

    def all(self, name: str) -> dict[str, AliasRecord]:
        """Every alias of an adapter."""
        found = {alias: self.read(name, alias) for alias in self.names(name)}
        return {alias: record for alias, record in found.items() if record is not None}

    def move(self, alias: str, to: Version, change: Move, *, expected: int | None) -> AliasRecord:
        """Name another version if the alias still names `expected` (None: nothing); raises StaleError otherwise."""

        def allowed(now: AliasRecord | None) -> None:
            names = now.version if now is not None else None
            if names != expected:
                raise StaleError(
                    f"{to.name}@{alias} names {_version(names)}, not {_version(expected)} as it did when this was "
                    "decided; nothing was changed, decide again against what it names now"
                )

        return self._swap(alias, to, change, allowed)

    def set(self, alias: str, to: Version, change: Move) -> AliasRecord:
        """Name another version, whatever the alias names now."""
        return self._swap(alias, to, change, lambda now: None)

    def set_share(self, name: str, alias: str, version: int, share_percent: float, reason: str = "") -> AliasRecord:
        """Give the version an alias names a share of the requests; raises StaleError where it names another one."""
        share = {"share_percent": share_percent, "share_reason": reason}
        for _ in range(_ATTEMPTS):
            now, token = self._read(name, alias)
            if now is None or token is None or now.version != version:
                names = now.version if now is not None else None
                raise StaleError(f"{name}@{alias} names {_version(names)}, not version {version}; nothing was changed")
            new = AliasRecord.model_validate({**now.model_dump(), **share})
            if self._store.write_if_unchanged(alias_key(name, alias), _bytes(new), token):
                return new
        raise self._broken(name, alias)

    def _swap(
        self, alias: str, to: Version, change: Move, allowed: Callable[[AliasRecord | None], None]
    ) -> AliasRecord:
        """Read, ask, replace what was read; a swap that another mover's beat is asked again."""
        require_conditional_writes(self._store, "aliases")
        for _ in range(_ATTEMPTS):
            now, token = self._read(to.name, alias)
            if now is not None and now.version == to.number:
                return now  # a retry of what has been done already
            allowed(now)
            new = AliasRecord(**change.model_dump(), history=now.moves if now is not None else ())
            key = alias_key(to.name, alias)
            if token is None:
                done = self._store.write_if_absent(key, _bytes(new))
            else:
                done = self._store.write_if_unchanged(key, _bytes(new), token)
            if done:
                return new
        raise self._broken(to.name, alias)

    def _read(self, name: str, alias: str) -> tuple[AliasRecord | None, str | None]:
        key = alias_key(name, alias)
        try:
            data, token = self._store.read_versioned(key)
        except NotFoundError:
            return None, None
        return checked(AliasRecord, data, f"{self._store.address}/{key}", "an alias", _REMEDY), token

    def _broken(self, name: str, alias: str) -> UnreachableError:
        return UnreachableError(
            f"{self._store.address}/{alias_key(name, alias)}: {_ATTEMPTS} attempts to replace it were refused although "
            "it did not change; the object store may not support conditional writes (If-Match)"
        )


def move_to(version: Version, reason: str = "", *, rollback: bool = False) -> Move:
    """A move to a version, now, by the current user."""
    return Move(
        version=version.number,
        digest=version.digest,
        moved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=actor(),
        reason=reason,
        rollback=rollback,
    )


def _version(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"


def _bytes(record: AliasRecord) -> bytes:
    return (record.model_dump_json(indent=2) + "\n").encode()
