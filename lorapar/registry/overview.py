"""What is in a registry, in rows for people: adapters, the versions of one, and those trained on a captured request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorapar.errors import IntegrityError
from lorapar.records import digest_of
from lorapar.registry.aliases import AliasRecord
from lorapar.registry.lineage import LINEAGE_FILE
from lorapar.registry.registry import Registry
from lorapar.registry.start import FILES
from lorapar.registry.versions import Version


@dataclass(frozen=True)
class AdapterRow:
    """One adapter."""

    name: str
    versions: int
    latest: int | None
    aliases: dict[str, AliasRecord]
    fault: str | None = None
    """Which alias is damaged and what to do; None: they can be read."""


@dataclass(frozen=True)
class VersionRow:
    """One version."""

    number: int
    names: tuple[str, ...]
    """Aliases that name it."""
    aliases: tuple[str, ...]
    """The same with the share of a canary or why it ended."""
    verdict: str
    """The last verdict in a few words; empty where there is none, `damaged` where records of it are."""
    published: str
    """When, in ISO 8601; empty where that is not known."""
    fault: str | None = None
    """What is damaged and what to do; None: its records can be read."""


def adapter_rows(registry: Registry) -> list[AdapterRow]:
    """Every adapter of the registry."""
    return [adapter_row(registry, name) for name in registry.names()]


def adapter_row(registry: Registry, name: str) -> AdapterRow:
    """One adapter; without versions and aliases where it is not there."""
    numbers = registry.versions(name)
    try:
        aliases, fault = registry.aliases(name), None
    except IntegrityError as error:
        aliases, fault = {}, str(error)
    return AdapterRow(name, len(numbers), max(numbers, default=None), aliases, fault)


def version_rows(registry: Registry, name: str) -> list[VersionRow]:
    """Every version of an adapter, the newest first; also one that is gone though an alias names it."""
    aliases = registry.aliases(name)
    references = {record.version: f"{name}@{alias}" for alias, record in aliases.items()}
    references |= {number: f"{name}@{number}" for number in registry.versions(name)}
    return [_version_row(registry, references[number], number, aliases) for number in sorted(references, reverse=True)]


def _version_row(registry: Registry, reference: str, number: int, aliases: dict[str, AliasRecord]) -> VersionRow:
    names, alias_texts = _names_of(number, aliases), _aliases_of(number, aliases)
    try:
        version = registry.resolve(reference)
        return VersionRow(
            number, names, alias_texts, last_verdict(registry, version), registry.claim(version).claimed_at
        )
    except IntegrityError as error:
        return VersionRow(number, names, alias_texts, "damaged", "", fault=str(error))


def _names_of(number: int, aliases: dict[str, AliasRecord]) -> tuple[str, ...]:
    return tuple(alias for alias, record in sorted(aliases.items()) if record.version == number)


def _aliases_of(number: int, aliases: dict[str, AliasRecord]) -> tuple[str, ...]:
    """Names of the aliases of a version, with the share of a canary or why it ended."""
    return tuple(
        alias + (f" ({canary_words(record)})" if canary_words(record) else "")
        for alias, record in sorted(aliases.items())
        if record.version == number
    )


def canary_words(record: AliasRecord) -> str:
    """The share of a canary under way, or why it ended; empty where there was none."""
    if record.share_percent:
        return f"{record.share_percent:g}% of the requests"
    return f"canary ended: {record.share_reason}" if record.share_reason else ""


def last_verdict(registry: Registry, version: Version) -> str:
    """`better than version 1`, `not better than the base`, or nothing."""
    verdicts = registry.verdicts(version)
    return verdict_words(verdicts[-1]) if verdicts else ""


def verdict_words(verdict: dict[str, Any]) -> str:
    """A verdict in a few words."""
    incumbent = verdict.get("incumbent")
    against = f"version {incumbent['version']}" if incumbent else "the base"
    return f"{'better' if verdict['better'] else 'not better'} than {against}"


def lineage_of(registry: Registry, version: Version) -> dict[str, Any]:
    """lineage.json of a version, as it was published; empty for a folder that was published without one."""
    if LINEAGE_FILE not in registry.manifest(version).files:
        return {}
    return registry.read_json_file(version, LINEAGE_FILE)


@dataclass(frozen=True)
class VersionFacts:
    """One version."""

    name: str
    version: int
    digest: str
    names: tuple[str, ...]
    """Aliases that name it."""
    alias_texts: tuple[str, ...]
    """The same with the share of a canary or why it ended."""
    verdict: str
    """The last one in a few words; empty where there is none."""
    published: str
    """When, in ISO 8601."""
    by: str
    base: str | None
    """Base model; None, as the three below, where it was published without lineage."""
    base_revision: str | None
    rank: int | None
    max_lora_rank: int | None
    """None also where vLLM serves no such rank."""
    files: dict[str, int]
    """Sizes in bytes by name."""


def version_facts(registry: Registry, reference: str) -> VersionFacts:
    """What there is to know about one version; raises BadInputError for what is not there."""
    version = registry.resolve(reference)
    claim, manifest, lineage = registry.claim(version), registry.manifest(version), lineage_of(registry, version)
    aliases = registry.aliases(version.name)
    base, serving = lineage.get("base", {}), lineage.get("serving", {})
    return VersionFacts(
        name=version.name,
        version=version.number,
        digest=version.digest,
        names=_names_of(version.number, aliases),
        alias_texts=_aliases_of(version.number, aliases),
        verdict=last_verdict(registry, version),
        published=claim.claimed_at,
        by=claim.by,
        base=base.get("name"),
        base_revision=base.get("revision"),
        rank=serving.get("rank"),
        max_lora_rank=serving.get("max_lora_rank"),
        files={name: entry.size_bytes for name, entry in manifest.files.items()},
    )


def version_lines(facts: VersionFacts) -> str:
    """One version in a few lines."""
    lines = {
        "version": f"{facts.name}@{facts.version}",
        "digest": facts.digest,
        "aliases": ", ".join(facts.alias_texts) or "none",
        "verdict": facts.verdict or "none",
        "published": f"{facts.published} by {facts.by}",
    }
    if facts.base is not None:
        served = f"vLLM needs --max-lora-rank {facts.max_lora_rank}" if facts.max_lora_rank else "not served by vLLM"
        lines["base"] = f"{facts.base} at {facts.base_revision or 'no revision'}"
        lines["rank"] = f"{'none' if facts.rank is None else facts.rank}, {served}"
    files = [f"  {size:>12,} bytes  {name}" for name, size in facts.files.items()]
    return "\n".join([*(f"{key:<11}{value}" for key, value in lines.items()), *files])


@dataclass(frozen=True)
class Traces:
    """What a registry's lineages say of captured requests."""

    versions: dict[str, list[str]]
    """By request, the versions that were trained on it and those that go on from one of them, as NAME@VERSION."""
    goes_on: dict[str, str]
    """By version that was not trained on it but goes on from one that was: that one."""
    unreadable: list[str]
    """Why lineages cannot be read, one line each: their versions may be missing in the above."""


def trained_on(registry: Registry, capture: str, requests: Mapping[str, str]) -> Traces:
    """The versions that hold something of requests, which `requests` maps from their digests."""
    lineages, unreadable = _lineages(registry)
    by_digest = {version.digest: str(version) for version, _ in lineages}
    by_digest |= {_copy_digest(registry, version): str(version) for version, _ in lineages}
    parents: dict[str, str] = {}
    traces = Traces({request: [] for request in requests.values()}, {}, unreadable)
    for version, lineage in lineages:
        captures = (lineage.get("data") or {}).get("captures") or {}
        digests = frozenset(str(captures.get(capture, {}).get("requests", "")).split())
        for digest in digests & requests.keys():
            traces.versions[requests[digest]].append(str(version))
        if (parent := by_digest.get(str((lineage.get("parent") or {}).get("digest")))) is not None:
            parents[str(version)] = parent
    for trained in traces.versions.values():
        _with_descendants(trained, parents, traces.goes_on)
    return traces


def _copy_digest(registry: Registry, version: Version) -> str:
    """What a run that goes on from a copy of a version, in a folder, names it by."""
    files = registry.manifest(version).files
    return digest_of({name: files[name].sha256 for name in FILES if name in files})


def _lineages(registry: Registry) -> tuple[list[tuple[Version, dict[str, Any]]], list[str]]:
    """Every version's lineage, in the order of names and numbers, and what is damaged."""
    found, unreadable = [], []
    for name in registry.names():
        for number in sorted(registry.versions(name)):
            try:
                version = registry.resolve(f"{name}@{number}")
                found.append((version, lineage_of(registry, version)))
            except IntegrityError as error:
                unreadable.append(str(error))
    return found, unreadable


def _with_descendants(trained: list[str], parents: Mapping[str, str], goes_on: dict[str, str]) -> None:
    """Add to versions all that go on from one of them, however many steps away."""
    grown = True
    while grown:
        new = [one for one, parent in parents.items() if parent in trained and one not in trained]
        goes_on.update({one: parents[one] for one in new})
        trained += new
        grown = bool(new)
