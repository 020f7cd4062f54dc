"""How an adapter is named from outside: `NAME@3`, `NAME@ALIAS`, or `NAME` alone for what `production` names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorapar.errors import BadInputError

PRODUCTION = "production"
"""The alias that a bare name means, and that a gate's verdict moves."""
CANDIDATE = "candidate"
"""The alias of the version published last."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Reference:
    """A parsed reference: an alias or a version of an adapter, never both."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias or self.version}"


def parse_reference(text: str) -> Reference:
    """The parts of a reference; raises BadInputError for anything that is not plainly one.

    Everything that reaches a key or a path goes through here, so a client's `../../x` never does.
    """
    name, at, rest = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name, alias=PRODUCTION)
    if _VERSION.fullmatch(rest):
        return Reference(name, version=int(rest))
    return Reference(name, alias=check_alias(rest))


def check_name(name: str) -> str:
    """The name of an adapter, once it is one."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadInputError(
            f"{name!r} is not the name of an adapter: up to 64 letters, digits and . _ - that begin with a letter or "
            "digit; refer to one as NAME, NAME@3 or NAME@ALIAS"
        )
    return name


def check_alias(alias: str) -> str:
    """The name of an alias, once it is one; it begins with a letter, so it is never taken for a version."""
    if not _ALIAS.fullmatch(alias):
        raise BadInputError(
            f"{alias!r} is neither a version (1, 2, ...) nor an alias: up to 64 letters, digits and _ - that begin "
            "with a letter, such as production"
        )
    return alias
