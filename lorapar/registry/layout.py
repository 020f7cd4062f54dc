"""Where everything of a registry lies in its store.

    adapters/<name>/<version>/claim.json              who took the number, when, for which digest, in which run
    adapters/<name>/<version>/adapter_config.json, adapter_model.safetensors, README.md, lineage.json, figures/...
    adapters/<name>/<version>/manifest.json           written last: with it the version is there, without it it is not
    adapters/<name>/digests/<sha256>.json             which version has this content
    adapters/<name>/aliases/<alias>.json              the version an alias names, and those it named before
    adapters/<name>/verdicts/<version>.json           what gates said about a version
    adapters/<name>/signatures/<version>/<key>.json   who vouches for a version

What lies below a version never changes; what changes (aliases, verdicts) lies beside them.
"""

from __future__ import annotations

from lorapar.store import MANIFEST

ROOT = "adapters"
CLAIM = "claim.json"


def adapter_prefix(name: str) -> str:
    """Prefix of everything of one adapter."""
    return f"{ROOT}/{name}/"


def version_prefix(name: str, number: int) -> str:
    """Prefix of everything of one version."""
    return f"{ROOT}/{name}/{number}/"


def claim_key(name: str, number: int) -> str:
    """Key of the object whose first writer owns the number."""
    return version_prefix(name, number) + CLAIM


def manifest_key(name: str, number: int) -> str:
    """Key of the manifest, which makes a version visible."""
    return version_prefix(name, number) + MANIFEST


def digest_key(name: str, digest: str) -> str:
    """Key of the pointer from a content to its version."""
    return f"{ROOT}/{name}/digests/{digest}.json"


def aliases_prefix(name: str) -> str:
    """Prefix of all aliases of an adapter."""
    return f"{ROOT}/{name}/aliases/"


def alias_key(name: str, alias: str) -> str:
    """Key of an alias."""
    return f"{aliases_prefix(name)}{alias}.json"


def verdict_key(name: str, number: int) -> str:
    """Key of what gates said about a version."""
    return f"{ROOT}/{name}/verdicts/{number}.json"


def signatures_prefix(name: str, number: int) -> str:
    """Prefix of the signatures of a version."""
    return f"{ROOT}/{name}/signatures/{number}/"


def number_of(key: str, name: str) -> int | None:
    """The version a key belongs to; None for keys beside the versions."""
    first = key.removeprefix(adapter_prefix(name)).partition("/")[0]
    return int(first) if first.isdigit() else None
