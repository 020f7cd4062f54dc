"""An adapter's aliases and canary for a gateway: an InferenceModelRewrite of the Gateway API Inference Extension.

The gateway then turns names into versions before a request reaches a server, by the schema of `v1alpha2`. Servers
answer `NAME@VERSION` as for any client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lorapar.errors import BadInputError
from lorapar.registry import CANDIDATE, PRODUCTION, AliasRecord, Registry, parse_reference

_ALL = 1_000_000
"""The largest weight that the resource takes; the smallest is 1, so a target without requests is left out."""
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def gateway_manifest(registry: Registry, name: str, pool: str) -> dict[str, Any]:
    """An InferenceModelRewrite for the InferencePool `pool`: a rule for each alias, and one for the bare name.

    Raises BadInputError for a reference to one version or alias, an adapter without aliases, and a pool name that
    Kubernetes does not allow.
    """
    given = parse_reference(name)
    if name != given.name:
        raise BadInputError(f"{name}: --gateway writes every alias of an adapter; name it alone: {given.name}")
    if not _OBJECT_NAME.fullmatch(pool):
        raise BadInputError(
            f"--gateway {pool}: name the InferencePool: lower-case letters, digits, '-' and '.', at most 253"
        )
    aliases = registry.aliases(name)
    if not aliases:
        raise BadInputError(f"{name}: has no alias, so there is nothing to route; see `lorapar adapters list`")
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {
            "name": re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "adapter",
            "annotations": {"lorapar.io/adapter": name},
        },
        "spec": {"poolRef": {"name": pool}, "rules": list(_rules(name, aliases))},
    }


def _rules(name: str, aliases: Mapping[str, AliasRecord]) -> Iterator[dict[str, Any]]:
    if PRODUCTION in aliases:
        yield _rule(name, _shares(aliases[PRODUCTION], aliases.get(CANDIDATE)), name)
    for alias, record in sorted(aliases.items()):
        yield _rule(name, {record.version: _ALL}, f"{name}@{alias}")


def _shares(production: AliasRecord, candidate: AliasRecord | None) -> dict[int, int]:
    """Weights by version; the canary's share of the bare name's requests is the registry's."""
    canary = round(candidate.share_percent * _ALL / 100) if candidate is not None else 0
    if candidate is None or candidate.version == production.version:
        return {production.version: _ALL}
    return {production.version: _ALL - canary, candidate.version: canary}


def _rule(name: str, weights: Mapping[int, int], model: str) -> dict[str, Any]:
    targets = [{"modelRewrite": f"{name}@{version}", "weight": weight} for version, weight in weights.items() if weight]
    return {"matches": [{"model": {"type": "Exact", "value": model}}], "targets": targets}
