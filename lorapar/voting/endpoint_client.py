"""Requests to an OpenAI-compatible API that may be busy, slow or broken: many at once, tried again with patience.

httpx2 and not the package `openai`: every install has it already (huggingface-hub brings it), it is 0.5 MB against 16
and imported in a seventh of the time, and the package's retries fall short here: its longest Retry-After is fixed, one
request's does not hold the others back, and a body whose JSON is broken is not asked for again.

Tried again: 408, 409, 425, 429, all 5xx, time-outs, connections that break, bodies that are no JSON or
cannot be decompressed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from lorapar.config import EndpointOptions
from lorapar.errors import UnreachableError

FIRST_WAIT_SECONDS = 0.5
SHOWN_CHARACTERS = 200
"""How much of an answer's body an error shows."""
_TRY_AGAIN = frozenset({408, 409, 425, 429})


class RefusedError(UnreachableError):
    """The endpoint answered that it will not do this; asking again would not help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EndpointClient:
    """Requests to one endpoint. `headers` carry the key; errors and logs never show them."""

    def __init__(self, address: str, options: EndpointOptions, headers: Mapping[str, str]) -> None:
        self.address = address.rstrip("/")
        self._options = options
        limits = httpx2.Limits(
            max_connections=options.concurrency, max_keepalive_connections=options.concurrency, keepalive_expiry=30.0
        )
        self._http = httpx2.AsyncClient(headers=dict(headers), limits=limits, timeout=options.timeout_seconds)
        self._not_before = 0.0

    async def get(self, path: str) -> Any:
        """The JSON value at a path; raises as `post` does."""
        return await self._request("GET", self.address + path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a JSON body.

        Raises RefusedError for an answer that says no, UnreachableError once all tries have failed.
        """
        return await self._request("POST", self.address + path, body)

    async def post_beside(self, path: str, body: Mapping[str, Any]) -> Any:
        """As `post`, at a path beside `/v1`: where vLLM's server has what is not OpenAI's."""
        return await self._request("POST", self.address.removesuffix("/v1") + path, body)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _request(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        reason = ""
        for attempt in range(1, self._options.attempts + 1):
            await self._until_allowed()
            try:
                # The whole answer counts, not only the time between two bytes of it.
                async with asyncio.timeout(self._options.timeout_seconds):
                    response = await self._http.request(method, url, json=body)
                if response.status_code < 400:
                    return response.json()
                if response.status_code not in _TRY_AGAIN and response.status_code < 500:
                    raise RefusedError(f"{url}: {_described(response)}", response.status_code)
                reason = _described(response)
                self._slow_down(url, response)
            except (TimeoutError, httpx2.TimeoutException):
                reason = f"no answer within {self._options.timeout_seconds:g} s"
            except httpx2.TransportError as error:
                reason = f"the connection failed ({str(error) or type(error).__name__})"
            except httpx2.DecodingError as error:
                reason = f"the answer's body cannot be decompressed ({error})"
            except ValueError:
                reason = "the answer's body is not JSON"
            if attempt < self._options.attempts:
                await asyncio.sleep(self._wait_seconds(attempt))
        raise UnreachableError(f"{url}: {reason}, after {self._options.attempts} tries")

    def _wait_seconds(self, attempt: int) -> float:
        """Twice as long each time, less a random part: requests that failed together do not return together."""
        longest = min(self._options.max_wait_seconds, FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)

    async def _until_allowed(self) -> None:
        """What one request was told by Retry-After holds for all."""
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait * random.uniform(1.0, 1.1))

    def _slow_down(self, url: str, response: httpx2.Response) -> None:
        seconds = retry_after_seconds(response.headers.get("retry-after"), time.time())
        if seconds is None:
            return
        if seconds > self._options.max_wait_seconds:
            raise UnreachableError(
                f"{url}: {_described(response)}; it asks to wait {seconds:.0f} s, longer than max_wait_seconds "
                f"({self._options.max_wait_seconds:g}) allows"
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """What a Retry-After header asks for, in seconds or as a date (RFC 9110); None for none that is understood."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


def _described(response: httpx2.Response) -> str:
    """Status and the beginning of the message, in one line."""
    return f"HTTP {response.status_code} {' '.join(_message(response).split())[:SHOWN_CHARACTERS]}".strip()


def _message(response: httpx2.Response) -> str:
    try:
        value = response.json()
        error = value.get("error", value)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return response.text
