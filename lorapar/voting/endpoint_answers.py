"""How an endpoint's answer is held to the label words, and what is read from it.

Ways of asking, best first, of which the probe takes the first that the endpoint is seen to honour:

- `TokenRead` (vLLM, label words of one token): only the two tokens may be answered, and their log-probabilities before
  that mask come along;
- `Choice` (vLLM): structured_outputs with the words as choices; no log-probabilities before the mask;
- `JsonEnum` (most providers): a JSON schema whose one field is one of the words;
- `JsonAsked` (the rest): the prompt itself asks for that JSON, with a response format of any JSON where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lorapar.records import System
from lorapar.voting.endpoint_reply import Reply, json_objects
from lorapar.voting.teacher import label_of
from lorapar.voting.templates import Prompt

Body = dict[str, Any]
_AROUND_A_WORD = " \t\r\n\"'`*.:,;()[]"
"""What models put around a word."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint said about one prompt."""

    label: System | None
    """None: none of the words."""
    raw: str
    tokens: int
    """Tokens read and written, as the endpoint counts them."""
    thinking_tokens: int | None = None
    """How many of them were thought, where it counts them apart."""
    log_probs: Mapping[System, float] | None = None
    """Unmasked log-probability of each label word, where it gives them."""


class Constraint(Protocol):
    """One way of holding an answer to the label words."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def may_think(self) -> bool:
        """Whether a model may write something else first, so that more tokens are of use."""

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The body with the restriction in it, and as `max_tokens` what an answer without thinking takes."""

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The answer; raises KeyError, IndexError, TypeError, ValueError or AttributeError where something is
        missing that the API says is there.
        """


class Choice:
    """vLLM's structured_outputs: exactly one of the words."""

    name = "structured_outputs"
    may_think = True

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The words as choices; a token holds at least one byte, so that many tokens are enough."""
        words = list(prompt.continuations.values())
        return {
            **body,
            "structured_outputs": {"choice": words},
            "max_tokens": max(len(word.encode()) for word in words) + 1,
        }

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The word itself."""
        return Answer(_label_of(reply.text, prompt), reply.text, reply.tokens, reply.thinking_tokens)


@dataclass(frozen=True)
class JsonEnum:
    """A JSON schema with one field that is one of the words."""

    strict: bool = True
    """As OpenAI wants it; some know neither `strict` nor `additionalProperties`."""
    may_think = True

    @property
    def name(self) -> str:
        """What it is called."""
        return "JSON schema" if self.strict else "JSON schema, not strict"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The schema, strict, with every key required and no others."""
        schema: Body = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": _words(prompt)}},
            "required": ["label"],
        }
        form: Body = {"name": "label", "schema": schema}
        if self.strict:
            schema["additionalProperties"] = False
            form["strict"] = True
        return {
            **body,
            "response_format": {"type": "json_schema", "json_schema": form},
            "max_tokens": _json_tokens(prompt),
        }

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The field's value, or the word where it stands alone."""
        return _read_json(reply, prompt)


@dataclass(frozen=True)
class JsonAsked:
    """The prompt's last message asks for the JSON. Chat only: a text that is to be continued has no place for it."""

    any_json: bool = True
    """With the response format that allows any JSON."""
    may_think = True

    @property
    def name(self) -> str:
        """What it is called."""
        return "JSON mode" if self.any_json else "asked in words"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """Both objects that may be answered, written out behind the question."""
        first, second = (f'{{"label": "{word}"}}' for word in _words(prompt))
        asked = f"Answer with one JSON object and nothing else: {first} or {second}"
        *before, last = body["messages"]
        messages = [*before, {**last, "content": f"{last['content']}\n\n{asked}"}]
        form: Body = {"response_format": {"type": "json_object"}} if self.any_json else {}
        return {**body, **form, "messages": messages, "max_tokens": _json_tokens(prompt)}

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The field's value, or the word where it stands alone."""
        return _read_json(reply, prompt)


@dataclass(frozen=True)
class TokenRead:
    """vLLM, label words of one token each: these tokens alone may follow, and their log-probabilities are asked for."""

    tokens: Mapping[System, int]
    name = "allowed_token_ids"
    may_think = False

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """One token, of the allowed ones. Log-probabilities are taken before that restriction."""
        wanted = list(self.tokens.values())
        asked: Body = {"logprobs": True} if prompt.messages is not None else {"logprobs": 1}
        return {
            **body,
            **asked,
            "max_tokens": 1,
            "allowed_token_ids": wanted,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
        }

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The likeliest word, as the log-probabilities say."""
        found = _token_log_probs(reply.choice["logprobs"])
        log_probs = {system: found[f"token_id:{token}"] for system, token in self.tokens.items()}
        label, _ = label_of(log_probs)
        return Answer(label, prompt.continuations[label].strip(), reply.tokens, reply.thinking_tokens, log_probs)


def request_of(model: str, prompt: Prompt) -> tuple[str, Body]:
    """Path and body of a request for one prompt, without a restriction; temperature 0, so the likeliest answer."""
    body: Body = {"model": model, "temperature": 0}
    if prompt.messages is not None:
        return "/chat/completions", {**body, "messages": list(prompt.messages)}
    return "/completions", {**body, "prompt": prompt.text}


def _token_log_probs(found: Any) -> dict[str, float]:
    if "content" in found:
        return {one["token"]: one["logprob"] for one in found["content"][0]["top_logprobs"]}
    return dict(found["top_logprobs"][0])


def _words(prompt: Prompt) -> list[str]:
    return [word.strip() for word in prompt.continuations.values()]


def _json_tokens(prompt: Prompt) -> int:
    """A token holds at least one byte; the rest is the JSON around the word and white space within."""
    return max(len(word.encode()) for word in _words(prompt)) + 32


def _read_json(reply: Reply, prompt: Prompt) -> Answer:
    """The label in the text's JSON; None where objects in it differ."""
    said = [value for found in json_objects(reply.text) for value in _labels_in(found)]
    labels = {_label_of(one, prompt) for one in said or [reply.text]}
    return Answer(labels.pop() if len(labels) == 1 else None, reply.text, reply.tokens, reply.thinking_tokens)


def _labels_in(found: Mapping[str, Any]) -> list[str]:
    """The value of `label`, or the only one there is: servers that hold to no schema may name or wrap it otherwise."""
    value = found.get("label", next(iter(found.values())) if len(found) == 1 else None)
    if isinstance(value, Mapping):
        return _labels_in(value)
    return [value] if isinstance(value, str) else []


def _label_of(text: str, prompt: Prompt) -> System | None:
    """The label of a text that is one of the words, but for case and what models put around words."""
    for plain in (str.strip, _plain):
        found = [system for system, word in prompt.continuations.items() if plain(word) == plain(text) != ""]
        if len(found) == 1:
            return found[0]
    return None


def _plain(text: str) -> str:
    return text.strip(_AROUND_A_WORD).casefold()
