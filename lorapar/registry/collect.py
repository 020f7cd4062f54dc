"""Delete old versions: the only module here that deletes, so that deleting can have its own role.

Kept is what an alias names or a rollback would bring back, the last few, and everything younger than a grace time. A
version goes in an order that lets nobody see half of it: first its content loses the claim to the number, then the
manifest goes (it is no longer there), then the aliases are read once more, and only then its files go. A mover of an
alias looks the other way round: it moves, then looks whether the manifest is still there. So of a collection and a
promotion that race, at least one notices.

Claims stay, so that no number is ever used twice; so do verdicts. What a killed publisher left unfinished stays too:
publishing the same content again finishes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from lorapar.registry.layout import CLAIM, manifest_key, version_prefix
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Version


@dataclass(frozen=True)
class Retention:
    """What is kept besides what aliases name."""

    last: int = 5
    """Newest versions kept."""
    grace_seconds: float = 7 * 86400.0
    """Versions published within this time are kept."""


def collectable(registry: Registry, name: str, retention: Retention) -> list[Version]:
    """Versions of an adapter that may go, oldest first."""
    young = time.time() - retention.grace_seconds
    published = {entry.key: entry.modified for entry in registry.store.list(f"adapters/{name}/")}
    numbers = registry.versions(name)
    recent = set(numbers[-retention.last :]) if retention.last else set()
    kept = recent | _named(registry, name)
    return [
        registry.resolve(f"{name}@{number}")
        for number in numbers
        if number not in kept and published[manifest_key(name, number)] < young
    ]


def collect(registry: Registry, version: Version) -> bool:
    """Take a version away; False where an alias was moved to it meanwhile, and then it stays."""
    versions, manifest = registry.version_store, registry.manifest(version)
    key = manifest_key(version.name, version.number)
    versions.close_pointer(version)
    registry.store.delete(key)
    if version.number in _named(registry, version.name):
        registry.store.write_if_absent(key, manifest.model_dump_json(indent=2).encode())
        versions.reopen_pointer(version)
        return False
    prefix = version_prefix(version.name, version.number)
    for entry in list(registry.store.list(prefix)):
        if entry.key != prefix + CLAIM:
            registry.store.delete(entry.key)
    return True


def _named(registry: Registry, name: str) -> set[int]:
    """Versions that an alias names, and those that rolling it back would bring back next."""
    records = registry.aliases(name).values()
    return {record.version for record in records} | {record.before for record in records if record.before is not None}
