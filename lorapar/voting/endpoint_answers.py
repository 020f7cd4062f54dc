"""How an endpoint's answer is held to the label words, and what is read from it.

Four ways of asking, best first, of which the probe takes the first that the endpoint is seen to honour:

- `TokenRead` (vLLM, label words of one token): only the two tokens may be answered, and their log-probabilities before
  that mask come along;
- `Choice` (vLLM): structured_outputs with the words as choices; no log-probabilities before the mask;
- `JsonEnum` (most providers): a JSON schema whose one field is one of the words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lorapar.records import System
from lorapar.voting.templates import SYSTEM_ORDER, Prompt

Body = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What an endpoint said about one prompt."""

    label: System | None
    """None: none of the words."""
    raw: str
    tokens: int
    """Tokens read and written, as the endpoint counts them."""
    log_probs: Mapping[System, float] | None = None
    """Unmasked log-probability of each label word, where it gives them."""


class Constraint(Protocol):
    """One way of holding an answer to the label words."""

    name: str

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The body with the restriction in it."""

    def read(self, answer: Any, prompt: Prompt) -> Answer:
        """The answer; raises KeyError, IndexError, TypeError or ValueError where it is not shaped as the API says."""


def request_of(model: str, prompt: Prompt) -> tuple[str, Body]:
    """Path and body of a request for one prompt, without a restriction; temperature 0, so the likeliest answer."""
    body: Body = {"model": model, "temperature": 0}
    if prompt.messages is not None:
        return "/chat/completions", {**body, "messages": list(prompt.messages)}
    return "/completions", {**body, "prompt": prompt.text}


class Choice:
    """vLLM's structured_outputs: exactly one of the words."""

    name = "structured_outputs"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The words as choices; a token holds at least one byte, so that many tokens are enough."""
        words = list(prompt.continuations.values())
        return {
            **body,
            "structured_outputs": {"choice": words},
            "max_tokens": max(len(word.encode()) for word in words) + 1,
        }

    def read(self, answer: Any, prompt: Prompt) -> Answer:
        """The word itself."""
        text = text_of(answer)
        return Answer(_label_of(text, prompt), text, _tokens(answer))


class JsonEnum:
    """A JSON schema with one field that is one of the words."""

    name = "JSON schema"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The schema, strict, with every key required and no others."""
        words = [word.strip() for word in prompt.continuations.values()]
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": words}},
            "required": ["label"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}
        return {**body, "response_format": form, "max_tokens": max(len(word.encode()) for word in words) + 32}

    def read(self, answer: Any, prompt: Prompt) -> Answer:
        """The field's value."""
        text = text_of(answer)
        try:
            label = _label_of(str(json.loads(text)["label"]), prompt)
        except (ValueError, KeyError, TypeError):
            label = None
        return Answer(label, text, _tokens(answer))


@dataclass(frozen=True)
class TokenRead:
    """vLLM, label words of one token each: these tokens alone may follow, and their log-probabilities are asked for."""

    tokens: Mapping[System, int]
    name = "allowed_token_ids"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """One token, of two allowed ones. Log-probabilities are taken before that restriction."""
        wanted = [self.tokens[system] for system in SYSTEM_ORDER]
        asked: Body = {"logprobs": True} if prompt.messages is not None else {"logprobs": 1}
        return {
            **body,
            **asked,
            "max_tokens": 1,
            "allowed_token_ids": wanted,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
        }

    def read(self, answer: Any, prompt: Prompt) -> Answer:
        """The likelier word, as its two log-probabilities say; System 2 where they are equal."""
        found = _token_log_probs(answer["choices"][0]["logprobs"])
        log_probs = {system: found[f"token_id:{token}"] for system, token in self.tokens.items()}
        first, second = (log_probs[system] for system in SYSTEM_ORDER)
        label: System = "system1" if first > second else "system2"
        return Answer(label, prompt.continuations[label].strip(), _tokens(answer), log_probs)


def text_of(answer: Any) -> str:
    """The text of an answer, chat or completion."""
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def _token_log_probs(found: Any) -> dict[str, float]:
    if "content" in found:
        return {one["token"]: one["logprob"] for one in found["content"][0]["top_logprobs"]}
    return dict(found["top_logprobs"][0])


def _label_of(text: str, prompt: Prompt) -> System | None:
    for system, word in prompt.continuations.items():
        if text.strip() == word.strip():
            return system
    return None


def _tokens(answer: Any) -> int:
    return int((answer.get("usage") or {}).get("total_tokens") or 0)
