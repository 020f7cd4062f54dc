"""Where every object of a registry is in its store, how each is checked when it is read, and who wrote it.

    adapters/<name>/<version>/claim.json              who took the number, when, for which digest, in which run
    adapters/<name>/<version>/adapter_config.json, adapter_model.safetensors, README.md, lineage.json, figures/...
    adapters/<name>/<version>/manifest.json           written last: with it the version is there, without it it is not
    adapters/<name>/digests/<sha256>.json             which version has this content
    adapters/<name>/aliases/<alias>.json              the version an alias names, and those it named before
    adapters/<name>/verdicts/<version>.json           what gates said about a version
    adapters/<name>/signatures/<version>/<key>.json   who vouches for a version

What is below a version never changes; what changes (aliases, verdicts) is beside them. Objects are data from
outside: a damaged one is named with its address.
"""

from __future__ import annotations

import getpass
import os
import socket
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lorapar.errors import IntegrityError
from lorapar.store import MANIFEST

ROOT = "adapters"
CLAIM = "claim.json"
M = TypeVar("M", bound=BaseModel)


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


def checked(kind: type[M], data: bytes, address: str, what: str, remedy: str) -> M:
    """An object's bytes as a model; raises IntegrityError with its address, what is wrong and what to do.

    Args:
        what: what it should be, with its article, such as `a manifest`.
        remedy: what a person can do about a damaged one.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{field}: " if field else ""
        raise IntegrityError(f"{address}: not {what} ({where}{first['msg']}); {remedy}") from None


def actor() -> str:
    """`user@host`; `LORAPAR_BY` says it better where a service acts for a person."""
    return os.environ.get("LORAPAR_BY") or f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"  # a container's numeric user has no name
