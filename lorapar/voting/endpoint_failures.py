"""Parse an endpoint's failure: its status, its message, its subject and the time it asks to wait.

Servers and gateways write failures in many forms: `{"error": {...}}`, a list of these, a text, `detail`, a bare
`message`. Some pass a failure on inside an HTTP 200, or wrap it in another status. The code inside counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

SHOWN_CHARACTERS = 300
"""How many characters of an endpoint's message an error shows."""
TRY_AGAIN = frozenset({408, 409, 425, 429})
"""Statuses after which a request is retried, in addition to all from 500 on except NOT_IMPLEMENTED."""
NO_CREDIT = 402
NOT_IMPLEMENTED = 501
_WRAPPERS = frozenset({200, 400, 500, 502})
"""Statuses that gateways put around an answer with another code inside."""
_SAID_WHEN_BUSY = frozenset({498, 499})
"""Statuses with which some servers say that a rate or their capacity is used up, and others something else."""
_RATE = re.compile(r"rate.?limit|throttl|resource.?exhausted|too.?many.?requests", re.I)
"""How a 403 says that a rate is used up; what a plan or key never allows does not pass."""
_CODES = ("code", "status", "status_code", "statusCode", "http_status", "error_code", "errorCode", "errorcode", "type")
_WORDS = (
    "message",
    "msg",
    "error_msg",
    "status_msg",
    "errorMessage",
    "error_description",
    "faultstring",
    "detail",
    "title",
)
_NAMED = (
    (r"insufficient.?(quota|balance|credit)|billing|payment", NO_CREDIT),
    (r"rate.?limit|throttl|resource.?exhausted|too.?many|overload|capacity|busy|concurren", 429),
    (r"unavailable|server.?error|internal|time.?d?.?out|deadline|bad.?gateway|upstream|temporar", 503),
    (r"authentication|unauthenticated|unauthorized|invalid.?api.?key", 401),
    (r"permission|forbidden|denied", 403),
    (r"not.?found|unexpected endpoint|no such (route|path)|does not exist", 404),
    (r"invalid|unsupported|content.?filter|bad.?request", 400),
)
_ADVICE = {
    401: "set the variable that openai.api_key_env names to a key it takes; a gateway may want openai.headers or "
    "openai.headers_env beside it",
    NO_CREDIT: "the account behind the key has no credit or quota left",
    403: "the key is known but may not do this: allow it this model, or use another key or model",
    413: "the row is too long for the model: leave the row out of the data or let another teacher vote",
}
_WAIT_IN_WORDS = re.compile(
    r"(?:try again|retry)(?:ing)? (?:in|after) (?=[\d.]+\s?(?:h|m|s))"
    r"(?:(\d+)\s?h(?:ours?)?)?\s?(?:(\d+)\s?m(?:in(?:utes?)?)?(?![a-z]))?\s?(?:(\d+(?:\.\d+)?)\s?s(?:ec(?:onds?)?)?)?"
    r"(?:(\d+(?:\.\d+)?)\s?ms)?",
    re.I,
)
_NO_SYSTEM = (
    r"system.?(role|message|prompt|instruction)|(role|message|support)\W.{0,60}\bsystem\b|developer (role|instruction)"
    r"|roles must alternate|\buser\b\W+(?:and|or)\W+assistant\b"
)
_ROOM_IN_CONTEXT = re.compile(
    r"context length is ([0-9]+)\b.*?(at least |upper bound for )?\b([0-9]+) "
    r"(?:in the (?:messages|prompt)|of text input|input tokens)",
    re.I,
)
"""Lengths of context and prompt in messages of vLLM and OpenRouter; newer vLLM gives a lower bound for a prompt."""
_UNKNOWN = 520
"""The code of a failure inside a 200 without a code: it is retried."""


@dataclass(frozen=True)
class Failure:
    """An answer that is a failure."""

    status: int
    """Its code."""
    words: str
    """The endpoint's message in one line that begins with the status."""
    names: str = ""
    """Codes and kinds that are words, such as `content_filter`."""
    parameter: str | None = None
    """The field of the request that it names as its cause."""
    wait_seconds: float | None = None
    """The time it asks to wait."""

    @property
    def _text(self) -> str:
        return f"{self.names} {self.words}"

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in TRY_AGAIN or (self.status >= 500 and self.status != NOT_IMPLEMENTED)

    @property
    def filtered(self) -> bool:
        """Whether the row's text is refused."""
        return bool(re.search(r"content.?(filter|management policy|policy)|ResponsibleAI|flagged", self._text, re.I))

    @property
    def too_long(self) -> bool:
        """Whether the row's length is refused."""
        return self.status == 413 or bool(
            re.search(r"context.?(length|window)|too long|too many tokens|input.?tokens", self._text, re.I)
        )

    @property
    def unwritten(self) -> bool:
        """Whether the request was valid and the model failed to write the requested JSON, as Groq reports it."""
        return bool(re.search(r"json_validate_failed|failed to (generate|validate) json", self._text, re.I))

    @property
    def too_small(self) -> bool:
        """Whether a number in the request is refused for being too small."""
        return bool(re.search(r"at least|greater than|minimum|too small|>=", self.words, re.I))

    @property
    def too_large(self) -> bool:
        """Whether a number in the request is refused for being too large."""
        return bool(
            re.search(r"at most|less than|maxim|too (large|high|big)|exceed|range|<=| > [0-9]", self.words, re.I)
        )

    def largest_instead_of(self, number: int) -> int:
        """A smaller number in place of one that is too large: from the message, or half of it. For a prompt that is too
        long by itself, 0 or less.
        """
        if found := _ROOM_IN_CONTEXT.search(self.words):
            context, prompt = int(found[1]), int(found[3])
            if found[2]:  # the prompt is longer than that: reserve twice its length, or an eighth of the context
                room = context - max(2 * prompt, context // 8)
                return room if 0 < room < number else number // 2
            return context - prompt if context - prompt < number else number // 2
        named = [int(one) for one in re.findall(r"(?<![\w.])[0-9]{2,9}(?![\w.]*[0-9])", self.words)]
        return max((one for one in named if number // 4 <= one < number), default=number // 2)

    @property
    def no_system(self) -> bool:
        """Whether the request is refused because it has a system message."""
        return bool(re.search(_NO_SYSTEM, self.words, re.I))

    @property
    def advice(self) -> str:
        """What a person can do about it; empty where only the endpoint's message helps."""
        if "through the proxy" in self.words:
            return "ask who runs it, or put the host into NO_PROXY"
        if self.filtered:
            return "leave the row out of the data, change the provider's filter, or let another teacher vote"
        if self.too_long:
            return _ADVICE[413]
        if self.status == 403 and "an HTML page" in self.words:
            return "a login page or a firewall answers there instead of the API: fix endpoint, or what lets you in"
        return _ADVICE.get(self.status, "")


def failure_of(status: int, headers: Mapping[str, str], text: str, value: Any, now: float) -> Failure | None:
    """The failure in an answer; None where status and form of the body show none.

    `value` is the body's JSON, or None; a date in Retry-After is compared with `now`.
    """
    error = _error_in(value, failed=status >= 400)
    if status < 400 and error is None:
        return None
    found = error if isinstance(error, Mapping) else {"message": error} if error is not None else {}
    inside = _code(found)
    if status < 400:
        counts = inside or _stands_for(_message(found)) or _UNKNOWN
    elif _is_busy(status, f"{_names(found)} {_message(found)}"):
        counts = 429
    elif status == 429 and _named_code(found) == NO_CREDIT:
        counts = NO_CREDIT
    else:
        counts = inside if inside is not None and status in _WRAPPERS else status
    message = described(_message(found) or (text if value is None else ""))
    shown = f"HTTP {status}" + (f" ({counts} inside)" if counts not in (status, _UNKNOWN, NO_CREDIT) else "")
    wait_seconds = _wait_seconds(headers, found, now)
    return Failure(counts, f"{shown} {message}".strip(), _names(found), _parameter(found), wait_seconds)


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """The time of a Retry-After header: seconds or a date (RFC 9110), or in other forms, with a unit or as a time of
    day; None where it cannot be read.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s)?\s*", header or "")
    if match:
        seconds = float(match[1]) / (1000.0 if match[2] == "ms" else 1.0)
        return max(0.0, seconds - now) if seconds > 1e9 else seconds
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now) if header else None
    except (ValueError, OverflowError):
        return None


def described(text: str) -> str:
    """A body that is not JSON, in one line: the title of a page."""
    if re.match(r"\s*(<!doctype|<html|<head|<body)", text, re.I):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
        return "an HTML page" + (f" ('{' '.join(title[1].split())[:80]}')" if title else "")
    return " ".join(text.split())[:SHOWN_CHARACTERS]


def _error_in(value: Any, *, failed: bool) -> Any:
    """The part of a body that holds the error; None where there is none."""
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, Mapping):
        return value if failed else None
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return _error_of_choice(choices[0]) or value.get("error") or None
    for key in ("error", "errors", "detail", "base_resp", "fault"):
        inner = value.get(key)
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if inner and (failed or key != "base_resp" or choices is None):
            return _merged(value, key, inner)
    says_so = value.get("object") == "error" or value.get("success") is False or value.get("type") == "error"
    holds = any(value.get(key) is not None for key in ("data", "tokens", "prompt"))
    speaks = any(word in value for word in _WORDS) and not holds
    return value if failed or says_so or speaks else None


def _error_of_choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return None
    message = choice.get("message")
    error = message.get("error") if isinstance(message, Mapping) else None
    if isinstance(message, Mapping) and message.get("content") and not (isinstance(error, Mapping) and _code(error)):
        error = None  # a field for errors that is filled beside an answer
    return choice.get("error") or error


def says_failure(value: Mapping[str, Any]) -> bool:
    """Whether an event with a message of the server is a failure: by a code, or by its kind."""
    return "error" in (value.get("object"), value.get("type")) or _code(value) is not None


def _is_busy(status: int, text: str) -> bool:
    """Whether a status that may mean something else says that a rate or the server's capacity is used up."""
    may_mean_it = status in _SAID_WHEN_BUSY or (status == 403 and _RATE.search(text) is not None)
    return may_mean_it and _stands_for(text) == 429


def _merged(value: Mapping[str, Any], key: str, inner: Any) -> Mapping[str, Any]:
    """A body and the error in it, the words of both together."""
    if inner is True:
        return value
    if not isinstance(inner, Mapping):
        return {**value, "message": _with(value, inner)}
    if isinstance(nested := inner.get("detail"), Mapping):  # Apigee
        inner = {**inner, **nested}
    if key == "errors" and not any(word in inner for word in _WORDS):  # a list of complaints for each field
        fields = "; ".join(
            f"{name}: {' '.join(map(str, said)) if isinstance(said, list) else said}" for name, said in inner.items()
        )
        return {**value, "message": f"{_with(value, '')}: {fields}".removeprefix(": ")}
    return {**value, **inner}


def _with(value: Mapping[str, Any], short: Any) -> Any:
    """A short error next to a longer message: `{"error": "rate_limited", "message": "..."}`."""
    longer = next((value[word] for word in _WORDS if isinstance(value.get(word), str)), None)
    return f"{short}: {longer}".removeprefix(": ") if longer and longer != short else short


def _code(error: Mapping[str, Any]) -> int | None:
    """The code in an error, as a number or by name."""
    for key in _CODES:
        text = str(error.get(key, ""))
        if text.isdigit() and 400 <= int(text) < 600:
            return int(text)
    return _named_code(error)


def _named_code(error: Mapping[str, Any]) -> int | None:
    """The code for the names in an error (`rate_limit_error`, `RESOURCE_EXHAUSTED`)."""
    return _stands_for(_names(error))


def _names(error: Mapping[str, Any]) -> str:
    return " ".join(error[key] for key in _CODES if isinstance(error.get(key), str))


def _stands_for(text: str) -> int | None:
    return next((code for pattern, code in _NAMED if re.search(pattern, text, re.I)), None)


def _message(error: Mapping[str, Any]) -> str:
    found = next((error[word] for word in _WORDS if error.get(word)), None)
    if isinstance(found, Mapping) and found.get("message"):
        found = found["message"]
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    shown = found if found is not None else dict(error)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    place = ".".join(map(str, error["loc"][1:])) if isinstance(error.get("loc"), list) else ""
    text = f"{place}: {text}" if place and place not in text else text
    return f"{text}: {raw}" if raw else text if error else ""


def _parameter(error: Mapping[str, Any]) -> str | None:
    """The field of the request that the error names, without what follows a dot or bracket. In FastAPI's and Mistral's
    lists of errors, it is the last part of the first one's location.
    """
    named = error.get("param")
    if isinstance(named, str) and named:
        return re.split(r"[.\[]", named)[0]
    place = error.get("loc")
    return str(place[1]) if isinstance(place, list) and len(place) > 1 and place[0] == "body" else None


def _wait_seconds(headers: Mapping[str, str], error: Mapping[str, Any], now: float) -> float | None:
    for name, unit in (("retry-after-ms", "ms"), ("x-ms-retry-after-ms", "ms"), ("retry-after", "")):
        given = headers.get(name)
        seconds = retry_after_seconds(given + unit if given else None, now)
        if seconds is not None:
            return seconds
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and detail.get("retryDelay"):  # Google's RetryInfo
            return retry_after_seconds(str(detail["retryDelay"]), now)
    return _seconds_in_words(_message(error))


def _seconds_in_words(words: str) -> float | None:
    """The time to wait in a message: `try again in 1m2.5s` (OpenAI), `retry after 20 seconds` (Azure)."""
    found = _WAIT_IN_WORDS.search(words)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
