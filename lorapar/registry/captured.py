"""Which versions were trained on requests that a server kept: their lineages name each by a digest of its id."""

from __future__ import annotations

from collections.abc import Mapping

from lorapar.registry.overview import lineage_of
from lorapar.registry.registry import Registry


def trained_on(registry: Registry, capture: str, requests: Mapping[str, str]) -> dict[str, list[str]]:
    """By what `requests` maps a digest to, the versions whose rows came of that request, as NAME@VERSION.

    Raises IntegrityError for a lineage that cannot be read: a version must not be missed.
    """
    found: dict[str, list[str]] = {name: [] for name in requests.values()}
    for name in registry.names():
        for number in sorted(registry.versions(name)):
            version = registry.resolve(f"{name}@{number}")
            captures = lineage_of(registry, version).get("data", {}).get("captures") or {}
            digests = frozenset(str(captures.get(capture, {}).get("requests", "")).split())
            for digest, request in requests.items():
                if digest in digests:
                    found[request].append(str(version))
    return found
