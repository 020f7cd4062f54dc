"""Check what a registry holds: every byte of a version against its manifest, and every record beside the versions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry.reference import parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Version


@dataclass(frozen=True)
class Checked:
    """What was found out about one version, or about a record beside the versions."""

    what: str
    """`NAME@3`, `NAME@3 claim`, `NAME@3 verdicts`, `NAME@ALIAS`, or `NAME digests`."""
    fault: str | None
    """None: every byte is as its manifest names it."""


def check_version(registry: Registry, reference: str) -> Iterator[Checked]:
    """Fetch a version and compare size and sha256 of every file; then read its claim and its verdicts.

    Raises BadInputError for a version or an alias that is not there.
    """
    try:
        found = str(registry.resolve(reference))
    except IntegrityError as error:
        found = reference if "@" in reference else str(parse_reference(reference))
        yield Checked(found, str(error))
    else:
        with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
            yield Checked(found, _fault(lambda: registry.pull(found, Path(scratch) / "version")))
    number = parse_reference(found).version
    if number is not None:
        yield from _records(registry, Version(name=parse_reference(found).name, number=number, digest=""))


def _records(registry: Registry, version: Version) -> Iterator[Checked]:
    """The claim and the verdicts of a version, where they are damaged; neither depends on its manifest."""
    for what, read in (("claim", registry.claim), ("verdicts", registry.verdicts)):
        fault = _fault(partial(read, version))
        if fault is not None:
            yield Checked(f"{version} {what}", fault)


def check_adapter(registry: Registry, name: str) -> Iterator[Checked]:
    """Every version of an adapter, then its damaged aliases and pointers.

    An alias is damaged too where the version that it names is not there, or is another one than it was moved to.
    """
    numbers = registry.versions(name)
    for number in numbers:
        yield from check_version(registry, f"{name}@{number}")
    for alias in registry.alias_store.names(name):
        fault = _fault(partial(registry.read_alias, name, alias))
        fault = fault or _leads_nowhere(registry, name, alias, numbers)
        if fault is not None:
            yield Checked(f"{name}@{alias}", fault)
    for digest in registry.version_store.digests(name):
        fault = _fault(partial(registry.version_store.pointer, name, digest))
        if fault is not None:
            yield Checked(f"{name} digests", fault)


def _leads_nowhere(registry: Registry, name: str, alias: str, numbers: list[int]) -> str | None:
    record = registry.read_alias(name, alias)
    if record is None:
        return None
    if record.version not in numbers:
        return f"it names version {record.version}, which is not there"
    with suppress(IntegrityError):  # of its manifest, which was told with the version
        if registry.resolve(f"{name}@{record.version}").digest != record.digest:
            return f"version {record.version} is not the one it was moved to"
    return None


def _fault(read: Callable[[], object]) -> str | None:
    try:
        read()
    except IntegrityError as error:
        return str(error)
    return None


def check(registry: Registry, reference: str | None) -> Iterator[Checked]:
    """What a reference means: one version, everything of a bare name, or (None) the whole registry."""
    if reference is not None and "@" in reference:
        yield from check_version(registry, reference)
        return
    names = registry.names() if reference is None else [reference]
    for name in names:
        found = list(check_adapter(registry, name))
        if not found:
            raise BadInputError(f"{name}: not in the registry {registry.address}")
        yield from found
