"""Extract questions and answers from requests and responses of OpenAI's API, streamed or whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""The roles of OpenAI's API."""


@dataclass(frozen=True)
class Assembled:
    """The first choice of an answer."""

    text: str
    finish_reason: str | None
    """The server's reason for the end: `stop`, `length`; None where it gives none."""


def assembled(body: bytes) -> Assembled | None:
    """The first choice of an answer, streamed or whole; None where it has no text, calls a tool or has an error."""
    text = body.decode("utf-8", errors="replace")
    # Not splitlines: JSON strings may hold other line separators, such as U+2028.
    streamed = [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]
    parts, ended = [], None
    for part in streamed or [text]:
        event = _object(part) if part != "[DONE]" else {}
        if event.get("error"):  # what a server sends, with status 200, where it fails in mid-stream
            return None
        choice = _first_choice(event)
        if choice is None:
            continue
        if any(_holder(choice, name).get("tool_calls") for name in ("delta", "message")):
            return None
        parts.append(_answer_of(choice))
        ended = choice.get("finish_reason") or ended
    known = [part for part in parts if part is not None]
    return Assembled("".join(known), str(ended) if ended else None) if known else None


def answer_of(body: bytes) -> str | None:
    """The text of the first choice in an answer, streamed or whole; None where it holds none."""
    found = assembled(body)
    return None if found is None else found.text


def question_of(request: Mapping[str, Any]) -> str:
    """The last user message of a chat request, or the prompt of a completion; empty where there is no text."""
    messages = request.get("messages")
    if isinstance(messages, list):
        asked = (one for one in reversed(messages) if isinstance(one, dict) and one.get("role") == "user")
        return _text(next(asked, {}).get("content"))
    return _text(request.get("prompt"))


def texts_of(request: Mapping[str, Any], endpoint: str) -> list[tuple[str, str]] | None:
    """(role, text) of each message, or the prompt as the user's; None where a part is no text or a role is unknown."""
    if endpoint == "completion":
        prompt = request.get("prompt")
        return [("user", prompt)] if isinstance(prompt, str) and prompt.strip() else None
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        return None
    found = []
    for one in messages:
        if not isinstance(one, dict) or one.get("tool_calls"):
            return None
        # Roles are not redacted, so only known ones pass: a server accepts any text as a role.
        if not isinstance(one.get("role"), str) or one["role"] not in ROLES:
            return None
        text = _whole_text(one.get("content"))
        if text is None:
            return None
        found.append((one["role"], text))
    return found


def _whole_text(content: Any) -> str | None:
    """The text of a content, each part on its own line as in vLLM; None where a part is no text."""
    if isinstance(content, list):
        parts = [_part(one) for one in content]
        texts = [part for part in parts if part is not None]
        return "\n".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _part(one: Any) -> str | None:
    """The text of a part; None for an image, a sound, or a part with more than text."""
    if isinstance(one, dict):
        text = one.get("text") if one.get("type", "text") == "text" else None
        return text if isinstance(text, str) else None
    return one if isinstance(one, str) else None


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = (one.get("text", "") if isinstance(one, dict) else one for one in content)
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_choice(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        found = next(one for one in event["choices"] if one.get("index", 0) == 0)
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None
    return found if isinstance(found, dict) else None


def _holder(choice: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = choice.get(name)
    return found if isinstance(found, dict) else {}


def _answer_of(choice: Mapping[str, Any]) -> str | None:
    for holder in (_holder(choice, "delta"), _holder(choice, "message"), {"content": choice.get("text")}):
        if isinstance(holder.get("content"), str):
            return str(holder["content"])
    return None
