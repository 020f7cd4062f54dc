"""The way to an endpoint: proxies, redirects, and who is to blame where nothing comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from lorapar.config import EndpointOptions
from lorapar.errors import BadInputError
from lorapar.network import heed_no_proxy, trust_authorities

_DEFAULT_PORTS = {"http": 80, "https": 443}


def open_http(address: str, options: EndpointOptions) -> httpx2.AsyncClient:
    """A client with as many connections as requests may be on the way.

    Proxies come from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, authorities as `lorapar.network` says.
    Raises BadInputError where one of them cannot be used.
    """
    limits = httpx2.Limits(
        max_connections=options.concurrency, max_keepalive_connections=options.concurrency, keepalive_expiry=30.0
    )
    trust_authorities()
    heed_no_proxy(address)
    try:
        return httpx2.AsyncClient(limits=limits, timeout=options.timeout_seconds)
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise BadInputError(
            f"{address}: the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: "
            f"{_why_no_proxy(error)}"
        ) from None


def _why_no_proxy(error: Exception) -> str:
    """The reason, never the library's words about an address: they may hold a piece of its password."""
    if isinstance(error, ImportError):
        return "SOCKS needs the package socksio (pip install socksio), or name an http proxy"
    if isinstance(error, httpx2.InvalidURL):
        return (
            "it is no address; write http://USER:PASSWORD@HOST:PORT, with @, :, / and # in user or password as %40, "
            "%3A, %2F and %23"
        )
    return "it must begin with http://, https:// or socks5://"


def is_same_host(one: str, other: str) -> bool:
    """Whether a redirect stays at its host, or goes from http to https there: a key may be sent along."""
    first, second = urlsplit(one), urlsplit(other)
    if second.scheme not in _DEFAULT_PORTS or first.hostname != second.hostname:
        return False
    try:
        ports = [part.port or _DEFAULT_PORTS[part.scheme] for part in (first, second)]
    except ValueError:  # none that a port can be
        return False
    upgraded = (first.scheme, second.scheme) == ("http", "https") and ports == [80, 443]
    return upgraded or (first.scheme == second.scheme and ports[0] == ports[1])


class Peer:
    """Whom connections for an address really go to: with a proxy, that one, and it may be what does not answer."""

    def __init__(self, address: str) -> None:
        parts = httpx2.URL(address)  # which writes names that are not ASCII as they are looked up
        self._host = parts.raw_host.decode("ascii")
        self._ports = {parts.port or _DEFAULT_PORTS[parts.scheme], _DEFAULT_PORTS["https"]}
        self._seen: tuple[str, int] | None = None
        self._connected = False

    async def note(self, event: str, about: Mapping[str, Any]) -> None:
        """What httpx2's extension `trace` calls while a request is on its way."""
        if event.endswith("connect_tcp.started"):
            self._seen = (str(about["host"]), int(about["port"]))
            self._connected = False
        elif event.endswith("connect_tcp.complete"):
            self._connected = True

    @property
    def is_proxy(self) -> bool:
        """Whether connections do not go straight to the address."""
        host, port = self._seen or (self._host, 0)
        return host != self._host or (port not in self._ports and self._seen is not None)

    def proxy(self) -> str:
        """Names the proxy, in words that follow what went wrong; empty where there is none."""
        if not self.is_proxy or self._seen is None:
            return ""
        host, port = self._seen
        way = "through" if self._connected else "at"
        return f" {way} the proxy http://{host}:{port}, which HTTP_PROXY, HTTPS_PROXY and NO_PROXY decide on"
