"""Which version a model name means now, on this replica."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from lorapar.errors import BadInputError
from lorapar.registry import CANDIDATE, PRODUCTION, Reference, parse_reference

_BUCKETS = 10_000


@dataclass(frozen=True)
class Served:
    """The version that answers one request."""

    name: str
    version: int
    alias: str | None = None
    """The requested alias; `candidate` where a canary took the request; None where a version was requested."""
    judged: bool = False
    """Whether the request counts for a canary: a request for the bare name while a canary runs."""

    @property
    def model(self) -> str:
        """The name that vLLM gets."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Canary:
    """A version that gets a share of the requests for the bare name."""

    version: int
    share_percent: float


class NotServedError(BadInputError):
    """An alias of a served adapter that is not followed here; the message names those that are."""


class NotLoadedError(NotServedError):
    """A followed alias whose versions could not be loaded so far."""


@dataclass(frozen=True)
class Routes:
    """A snapshot; a switch to another version replaces it as a whole."""

    aliases: Mapping[Reference, int] = field(default_factory=dict)
    """Loaded version of each alias that is followed."""
    canaries: Mapping[str, Canary] = field(default_factory=dict)
    """Canaries by adapter; only those whose version is loaded."""

    def choose(self, model: str, followed: tuple[Reference, ...], key: str) -> Served | None:
        """The version that answers a request for `model`; None where it names no adapter of the registry.

        Args:
            key: a value that requests share which should get the same side of a canary.

        Raises NotServedError for an alias that is not followed, NotLoadedError for one without a loaded version.
        """
        try:
            reference = parse_reference(model)
        except BadInputError:
            return None
        names = {reference.name for reference in followed}
        if reference.name not in names:
            return None
        if reference.version is not None:
            return Served(reference.name, reference.version)
        if reference not in followed:
            known = ", ".join(_asked(alias) for alias in followed if alias.name == reference.name)
            raise NotServedError(
                f"the model '{model}' is not served here; there is {known}, and {reference.name}@VERSION"
            )
        return self._of_alias(model, reference, key)

    def _of_alias(self, model: str, reference: Reference, key: str) -> Served:
        version = self.aliases.get(reference)
        if version is None:
            raise NotLoadedError(f"no version of '{model}' is loaded; the server's log says why")
        canary = self.canaries.get(reference.name) if model == reference.name else None
        if canary is None:
            return Served(reference.name, version, reference.alias)
        if in_share(reference.name, key, canary.share_percent):
            return Served(reference.name, canary.version, CANDIDATE, judged=True)
        return Served(reference.name, version, reference.alias, judged=True)

    def versions(self, name: str) -> frozenset[int]:
        """Versions of an adapter that an alias or a canary names."""
        led = {version for reference, version in self.aliases.items() if reference.name == name}
        if name in self.canaries:
            led.add(self.canaries[name].version)
        return frozenset(led)


def in_share(name: str, key: str, share_percent: float) -> bool:
    """Whether a key is in the share: equally on every replica, and a larger share contains every smaller one."""
    digest = hashlib.sha256(f"{name}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) % _BUCKETS < share_percent * _BUCKETS / 100


def _asked(reference: Reference) -> str:
    return reference.name if reference.alias == PRODUCTION else str(reference)
