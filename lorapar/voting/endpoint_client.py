"""Requests to an OpenAI-compatible API that may be busy, slow or broken: many at once, with patient retries.

It uses httpx2 and not the package `openai`: every install has httpx2 already (huggingface-hub needs it), and it has 0.5
MB against 16 and imports in a seventh of the time. The package's retries are too weak here: its longest Retry-After is
fixed, one request's Retry-After does not slow down the others, and broken JSON is not retried.

Retried are 408, 409, 425, 429 and everything from 500 on except 501, as a status or as a code inside a 200; also
time-outs, broken connections, bodies that are not JSON or cannot be decompressed, and answers without a choice.

Key, other headers and secret parts of a query come from the environment (`Login`). Without an answer, the error names
the cause: the proxy, a redirect or the endpoint.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode, urljoin, urlsplit

import httpx2

from lorapar.config import ConnectionOptions
from lorapar.errors import BadInputError, UnreachableError
from lorapar.network import UNUSABLE_PROXY, heed_proxies, network_cause, proxy_refusal, trust_authorities
from lorapar.redaction import remember_secret
from lorapar.voting.endpoint_failures import Failure, described, failure_of
from lorapar.voting.endpoint_reply import BROKEN_OFF, body_of

_DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_WAIT_SECONDS = 0.5
_BUSY = frozenset({429, 503, 529})
_REDIRECTS = frozenset({301, 302, 307, 308})
_MOST_REDIRECTS = 5
CONNECT_SECONDS = 30.0
"""The time-out of connecting: an address that no longer exists never answers."""
_SHOWN_CHARACTERS = 120
_ANSWER_PATHS = ("/chat/completions", "/completions")
_PASTED_PATHS = (*_ANSWER_PATHS, "/models", "/responses", "/chat")
"""Path endings that people copy together with an address."""


class Login:
    """The credentials of every request; each value is redacted in all messages and files.

    Raises BadInputError where a variable or the key's file is empty.
    """

    def __init__(self, endpoint: str, options: ConnectionOptions, environment: Mapping[str, str]) -> None:
        self._endpoint = endpoint
        self._file = Path(options.api_key_file) if options.api_key_file is not None else None
        self._headers = dict(options.headers)
        for name, variable in options.headers_env.items():
            self._headers[name] = self._from(environment, variable, f"the header {name}", "headers_env")
        self.query = {
            name: self._from(environment, variable, f"{name} in the query", "query_env")
            for name, variable in options.query_env.items()
        }
        """Names and secret values added to the query of every request."""
        self._key: str | None = None
        if options.api_key_env is not None:
            self._key = _bare(self._from(environment, options.api_key_env, "the key", "api_key_env"))
        elif self._file is not None:
            self._key = self._read(self._file)

    def headers(self) -> dict[str, str]:
        """The headers of the next request."""
        key = self._key or ""
        return {**self._headers, **({"Authorization": f"Bearer {key}"} if key else {})}

    def renewed(self, refused: Mapping[str, str]) -> bool:
        """Whether the key differs from the one in the refused headers, after reading its file again."""
        if self._file is not None:
            self._key = self._read(self._file)
        return self.headers() != refused

    def _read(self, file: Path) -> str:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise BadInputError(f"openai.api_key_file: {file} cannot be read ({why})") from None
        return _bare(self._checked(key, f"openai.api_key_file: {file}"))

    def _from(self, environment: Mapping[str, str], variable: str, what: str, option: str) -> str:
        value = environment.get(variable, "").strip()
        if not value:
            raise BadInputError(
                f"the environment variable {variable}, which holds {what} for {self._endpoint}, is not set; set it, or "
                f"leave openai.{option} out where none is needed"
            )
        return self._checked(value, f"the environment variable {variable}")

    def _checked(self, value: str, where: str) -> str:
        if not value or not value.isascii() or not value.isprintable():
            raise BadInputError(f"{where} must hold one line of printable ASCII to be sent; put the value there again")
        remember_secret(value, quote_plus(value))
        return value


def _bare(key: str) -> str:
    """A key without what people copy with it: quotes, which `docker --env-file` keeps, and the header's `Bearer`."""
    quoted = len(key) > 1 and key[0] == key[-1] and key[0] in "\"'"
    key = key[1:-1].strip() if quoted else key
    scheme, _, rest = key.partition(" ")
    key = rest.strip() if scheme.casefold() == "bearer" else key
    remember_secret(key, quote_plus(key))
    return key


def open_http(address: str, options: ConnectionOptions) -> httpx2.AsyncClient:
    """A client with one connection for each concurrent request.

    Proxies come from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, certificate authorities from `lorapar.network`.
    Raises BadInputError where one of them cannot be used.
    """
    limits = httpx2.Limits(
        max_connections=options.concurrency, max_keepalive_connections=options.concurrency, keepalive_expiry=30.0
    )
    trust_authorities()
    heed_proxies(address)
    try:
        seconds = options.timeout_seconds
        timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        return httpx2.AsyncClient(limits=limits, timeout=timeout)
    except (ValueError, ImportError, httpx2.InvalidURL):  # never its own message, which may hold a part of a password
        raise BadInputError(f"{address}: {UNUSABLE_PROXY}: it is not the address of a proxy") from None


def is_same_host(one: str, other: str) -> bool:
    """Whether a redirect stays on its host, possibly from http to https, so that the key may be sent."""
    first, second = urlsplit(one), urlsplit(other)
    if second.scheme not in _DEFAULT_PORTS or first.hostname != second.hostname:
        return False
    try:
        ports = [part.port or _DEFAULT_PORTS[part.scheme] for part in (first, second)]
    except ValueError:  # not a valid port
        return False
    upgraded = (first.scheme, second.scheme) == ("http", "https") and ports == [80, 443]
    return upgraded or (first.scheme == second.scheme and ports[0] == ports[1])


class Peer:
    """The server that connections for an address go to: with a proxy, the proxy may be what does not answer."""

    def __init__(self, address: str) -> None:
        parts = httpx2.URL(address)  # which encodes names that are not ASCII for the look-up
        self._host = parts.raw_host.decode("ascii")
        self._ports = {parts.port or _DEFAULT_PORTS[parts.scheme], _DEFAULT_PORTS["https"]}
        self._seen: tuple[str, int] | None = None
        self._connected = False

    async def note(self, event: str, about: Mapping[str, Any]) -> None:
        """The callback of httpx2's extension `trace` during a request."""
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
        """A suffix for an error that names the proxy; empty where there is none."""
        if not self.is_proxy or self._seen is None:
            return ""
        host, port = self._seen
        way = "through" if self._connected else "at"
        return f" {way} the proxy http://{host}:{port}, which HTTP_PROXY, HTTPS_PROXY and NO_PROXY decide on"


class RefusedError(UnreachableError):
    """The endpoint refused the request; a retry would not help."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


class NoAnswerError(UnreachableError):
    """Every try failed; `status` is the code of the last answer, None where none came."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _TryAgainError(Exception):
    """One try failed in a way that may pass; the message says how, `status` is its code, if any."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def busy(self) -> bool:
        return self.status in _BUSY


class EndpointClient:
    """Requests to one endpoint with the credentials of `login`; errors and logs never show its values.

    `address` is the API's base, without path endings that a person copied, and without its query, which every request
    carries. `seconds` is the time-out of one request, where it is shorter than in the settings.
    """

    def __init__(
        self, endpoint: str, options: ConnectionOptions, login: Login, *, seconds: float | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/")
        for ending in _PASTED_PATHS:
            path = path.removesuffix(ending)
        self.address = f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"
        self._query = "&".join(part for part in (parts.query, urlencode(login.query)) if part)
        self._login = login
        self._options = options
        self._seconds = min(seconds or options.timeout_seconds, options.timeout_seconds)
        self._http = open_http(self.address, options)
        self._not_before = 0.0
        self._answers = 0
        self._moved: dict[str, str] = {}
        try:
            self._peer = Peer(self.address)
        except httpx2.InvalidURL as error:
            raise BadInputError(f"{self.address}: not a valid address ({error}); fix endpoint") from None
        self._given_up = asyncio.Event()

    async def get(self, path: str) -> Any:
        """The JSON value at a path; raises like `post`."""
        return await self._request("GET", self.address, path, None)

    async def post(self, path: str, body: Mapping[str, Any], *, attempts: int | None = None) -> Any:
        """The JSON answer to a JSON body; `attempts` is the number of tries, if fewer than in the settings.

        Raises RefusedError for a refusal, NoAnswerError once all tries have failed.
        """
        return await self._request("POST", self.address, path, body, attempts)

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None, *, attempts: int | None = None
    ) -> str:
        """The answer's text, of any kind, to a JSON body or to bytes; raises like `post`."""
        return str(await self._request(method, self.address, path, body, attempts, plain=True))

    async def post_beside(self, path: str, body: Mapping[str, Any]) -> Any:
        """Like `post`, at a path next to `/v1`: for routes of vLLM's server outside OpenAI's API."""
        return await self._request("POST", self.address.removesuffix("/v1"), path, body)

    async def pause(self, tries: int) -> None:
        """Wait as between two tries of a request, after `attempt` tries."""
        await self._gives_up_within(self._wait_seconds(tries))

    def add_version(self) -> bool:
        """Use `/v1` from now on; False where the address names a version already."""
        if re.search(r"/v\d", self.address):
            return False
        self.address += "/v1"
        return True

    @property
    def given_up(self) -> bool:
        """Whether `give_up` was called."""
        return self._given_up.is_set()

    def give_up(self) -> None:
        """The endpoint has failed: running requests may end, but nothing is retried."""
        self._given_up.set()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _request(
        self,
        method: str,
        base: str,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        attempts: int | None = None,
        *,
        plain: bool = False,
    ) -> Any:
        """A busy endpoint that answers other requests has not failed: their answers reset a request's tries."""
        shown, counted, waits, answers = base + path, 0, 0, 0
        most = min(attempts or self._options.attempts, self._options.attempts)
        while True:
            await self._until_allowed(shown)
            try:
                response = await self._try_once(method, shown, body)
                answer = self._read(shown, response, choices=path in _ANSWER_PATHS, plain=plain)
                self._answers += 1
                return answer
            except _TryAgainError as failed:
                waits += 1
                counted = 1 if failed.busy and self._answers > answers else counted + 1
                answers = self._answers
                reason, status = f"{shown}: {failed}, after {waits} {'try' if waits == 1 else 'tries'}", failed.status
            if counted >= most or await self._gives_up_within(self._wait_seconds(waits)):
                raise NoAnswerError(reason, status)

    async def _try_once(self, method: str, url: str, body: Mapping[str, Any] | bytes | None) -> httpx2.Response:
        try:
            # The limit applies to the whole answer, not only to the time between two bytes.
            async with asyncio.timeout(self._seconds):
                return await self._sent(method, url, body)
        except httpx2.ConnectTimeout:
            seconds = f"{min(self._options.timeout_seconds, CONNECT_SECONDS):g} s"
            raise _TryAgainError(f"no connection within {seconds}{self._peer.proxy()}") from None
        except (TimeoutError, httpx2.TimeoutException):
            option = " (openai.timeout_seconds)" if self._seconds == self._options.timeout_seconds else ""
            raise _TryAgainError(f"no answer within {self._seconds:g} s{option}{self._peer.proxy()}") from None
        except httpx2.TransportError as error:
            message, cause = str(error) or type(error).__name__, network_cause(error, self.address)
            if cause is not None and "ssl" in message.lower():  # a retry would not help
                raise UnreachableError(f"{url}: {cause}") from None
            failed = (
                cause if self._peer.is_proxy and cause else f"the connection failed{self._peer.proxy()} ({message})"
            )
            raise _TryAgainError(failed) from None
        except httpx2.InvalidURL as error:
            raise BadInputError(f"{url}: not a valid address ({error}); fix endpoint") from None
        except httpx2.DecodingError as error:
            raise _TryAgainError(f"the answer's body cannot be decompressed ({error})") from None

    async def _sent(self, method: str, url: str, body: Mapping[str, Any] | bytes | None) -> httpx2.Response:
        """The response, after redirects within the same host: a POST stays a POST, and no key goes elsewhere."""
        target = self._moved.get(url, url)
        held: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        for _ in range(_MOST_REDIRECTS):
            headers = self._login.headers()
            where = f"{target}?{self._query}" if self._query else target
            response = await self._http.request(
                method, where, **held, headers=headers, extensions={"trace": self._peer.note}
            )
            if response.status_code == 401 and self._login.renewed(headers):
                continue
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                return response
            found = urljoin(target, response.headers["location"]).partition("?")[0]
            if not is_same_host(target, found):
                failure = Failure(response.status_code, f"HTTP {response.status_code}")
                raise RefusedError(
                    f"{url}: HTTP {response.status_code}, it redirects to {found}, another host, which gets no key; "
                    "put the right address into endpoint",
                    failure,
                )
            target = self._moved[url] = found
        failure = Failure(310, "too many redirects")
        raise RefusedError(f"{url}: it redirects too often (last to {target}); fix endpoint", failure)

    def _read(self, url: str, response: httpx2.Response, *, choices: bool, plain: bool = False) -> Any:
        """The JSON of a good answer, or with `plain` its text; raises the error of any other answer."""
        # JSON is UTF-8, with or without a byte-order mark, whatever a header says (RFC 8259, 8.1).
        text = response.content.decode("utf-8-sig", errors="replace")
        value = body_of(text)
        failure = failure_of(response.status_code, response.headers, text, value, time.time())
        if failure is not None:
            if refused := proxy_refusal(response.status_code, self.address):
                raise UnreachableError(f"{url}: {refused}")
            if value is None and self._peer.is_proxy:  # mostly a page of the proxy itself
                failure = replace(failure, words=f"{failure.words}{self._peer.proxy()}")
            if not failure.passes:
                raise RefusedError(f"{url}: {failure.words}", failure)
            self._slow_down(url, failure)
            raise _TryAgainError(failure.words, failure.status)
        if plain:
            return text
        if value is None:
            raise _TryAgainError(f"the answer's body is not JSON{_instead(text)}{self._peer.proxy()}")
        if choices and not _has_choice(value):
            raise _TryAgainError(f"an answer that is not in the API's format: {described(text)[:_SHOWN_CHARACTERS]}")
        if choices and value["choices"][0].get("finish_reason") == BROKEN_OFF:
            raise _TryAgainError("its stream broke off: it ends without a finish_reason and without [DONE]")
        if choices and _failed_midway(value):
            raise _TryAgainError("the provider ended the answer with an error (finish_reason error)")
        return value

    def _wait_seconds(self, attempt: int) -> float:
        """Twice as long each time, less a random part, so that requests that failed together do not return together."""
        longest = min(self._options.max_wait_seconds, FIRST_WAIT_SECONDS * 2.0 ** min(attempt - 1, 32))
        return longest * random.uniform(0.5, 1.0)

    async def _until_allowed(self, url: str) -> None:
        """One request's Retry-After applies to all."""
        while (wait := self._not_before - time.monotonic()) > 0:
            if await self._gives_up_within(wait * random.uniform(1.0, 1.1)):
                raise UnreachableError(f"{url}: not asked, another request has failed meanwhile")

    def _slow_down(self, url: str, failure: Failure) -> None:
        seconds = failure.wait_seconds
        if seconds is None:
            return
        if seconds > self._options.max_wait_seconds:
            raise UnreachableError(
                f"{url}: {failure.words}; it asks to wait {seconds:.0f} s, longer than openai.max_wait_seconds "
                f"({self._options.max_wait_seconds:g}) allows"
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _gives_up_within(self, seconds: float) -> bool:
        """Wait; returns True as soon as the endpoint has failed meanwhile."""
        try:
            await asyncio.wait_for(self._given_up.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _instead(text: str) -> str:
    """A suffix for an error that says what a body is that is not JSON."""
    if not text.strip():
        return " but empty"
    page = described(text)
    if not page.startswith("an "):
        return f": {page[:_SHOWN_CHARACTERS]}"
    return f" but {page}; a login or a gateway answers there instead of the API: fix endpoint, or what lets you in"


def _failed_midway(value: Any) -> bool:
    """Whether an answer reports its own failure, as OpenRouter does where a provider broke off."""
    return str(value["choices"][0].get("finish_reason")).lower() == "error"


def _has_choice(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, Mapping) else None
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], Mapping)
