"""Check what a registry holds: every byte of a version against its manifest, and every alias against its versions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry.registry import Registry


@dataclass(frozen=True)
class Checked:
    """What was found out about one version or alias."""

    what: str
    """`NAME@3`, or `NAME@ALIAS` for an alias that leads nowhere."""
    fault: str | None
    """None: every byte is as its manifest names it."""


def check_version(registry: Registry, reference: str) -> Checked:
    """Fetch a version and compare size and sha256 of every file."""
    version = registry.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        try:
            registry.pull(str(version), Path(scratch) / "version")
        except IntegrityError as error:
            return Checked(str(version), str(error))
    return Checked(str(version), None)


def check_adapter(registry: Registry, name: str) -> Iterator[Checked]:
    """Every version of an adapter, then its aliases that name a version which is not there, or is another one."""
    numbers = registry.versions(name)
    for number in numbers:
        yield check_version(registry, f"{name}@{number}")
    for alias, record in registry.aliases(name).items():
        if record.version not in numbers:
            yield Checked(f"{name}@{alias}", f"it names version {record.version}, which is not there")
        elif registry.resolve(f"{name}@{record.version}").digest != record.digest:
            yield Checked(f"{name}@{alias}", f"version {record.version} is not the one it was moved to")


def check(registry: Registry, reference: str | None) -> Iterator[Checked]:
    """What a reference means: one version, everything of a bare name, or (None) the whole registry."""
    if reference is not None and "@" in reference:
        yield check_version(registry, reference)
        return
    names = registry.names() if reference is None else [reference]
    for name in names:
        found = list(check_adapter(registry, name))
        if not found:
            raise BadInputError(f"{name}: not in the registry {registry.address}")
        yield from found
