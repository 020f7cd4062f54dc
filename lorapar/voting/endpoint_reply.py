"""Read an endpoint's answer (text without reasoning, why it ended, its tokens) and restrict answers to label words.

Servers differ in where reasoning goes (a field, parts of the content, tags in the text) and in what surrounds JSON.
The ways to restrict an answer, best first; the probe takes the first that the endpoint honours: `TokenRead` (vLLM,
label words of one token: only those are allowed, with their log-probabilities before that mask), `Choice` (vLLM's
structured_outputs; no log-probabilities), `JsonEnum` (most providers: a JSON schema with one field), `JsonAsked` (the
rest: the prompt asks for that JSON, with the response format for any JSON, if there is one).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lorapar.records import System
from lorapar.voting.endpoint_failures import says_failure
from lorapar.voting.teacher import Prompt, label_of

_CUT_OFF = re.compile(r"length|max_(?:new_|output_|completion_)?tokens?|max_output|token_limit|context_window")
_FILTERED = re.compile(r"filter|safety|refusal|prohibited|recitation|blocklist|sensitive|guardrail|spii")
"""In the reason why an answer ended, in small letters."""
BROKEN_OFF = "stream broken off"
"""lorapar's finish_reason of a stream that ends without one, without a usage and without `[DONE]`."""
_THOUGHT_FIELDS = (
    *("reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking", "thinking_content"),
    *("thinking_blocks", "thoughts", "thought"),
)
_LONGEST_QUOTED = 1000
_TAG = r"(?:(?:seed:)?think(?:ing)?|thinking_process|thoughts?|reasoning)"
_OPENED = re.compile(
    rf"<{_TAG}>|\[(?:BEGIN )?THINK(?:ING)?\]|◁think▷|<\|channel\|>analysis<\|message\|>"
    r"|<\|(?:begin_of_thought|start_thinking)\|>|<unused94>",
    re.I,
)
_CLOSED = re.compile(
    rf"</{_TAG}>|\[(?:/|END )THINK(?:ING)?\]|◁/think▷|<\|channel\|>final<\|message\|>"
    r"|<\|(?:end_of_thought|end_thinking)\|>|<unused95>|assistantfinal",  # the last where a server drops control tokens
    re.I,
)
_MARK = r"(?:<\|[\w ]+\|>|</s>|<eos>|<end_of_turn>)"
_MARKS_BEFORE = re.compile(rf"\A(?:{_MARK}\s*)+")
_MARK_BEHIND = re.compile(rf"{_MARK}\Z")
"""Control tokens at the ends of an answer, which some servers leave there."""
_LONGEST_MARK = 100
_EVENTS = re.compile(r"\A\s*(?:(?:event|id|retry)?:[^\n]*\n\s*)*data:")
_EVENT = re.compile(r"^data:[ ]?([^\r\n]*)", re.MULTILINE)
"""The beginning of a stream, and the data of one event (WHATWG HTML, "Server-sent events")."""
_LIVES = re.compile(r"\A\s*(?::[^\n]*\n\s*)+")
"""Comments with which OpenRouter and proxies keep a connection alive, also before an answer that is not a stream."""
_ANSWER_ALONE = re.compile(r"\S+|\{[^{}]*\}")
Body = dict[str, Any]
_AROUND_A_WORD = " \t\r\n\"'`*.:,;()[]{}\u201c\u201d\u2018\u2019\u300c\u300d"
"""Characters that models put around a word."""
_NAMED = re.compile(r"\A\W*(?:the )?(?:label|answer)(?: is)?\W+|\s*</(?:label|answer)>\W*\Z", re.I)
"""Words or tags that models put around it."""


@dataclass(frozen=True)
class Reply:
    """One answer, chat or completion."""

    text: str
    """The text without the reasoning before it."""
    thinks: bool
    """Whether the model reasoned first."""
    is_cut_off: bool
    """Whether it ended because no more tokens were allowed."""
    refusal: str | None
    """Why the provider or the model refused this prompt; None: it did not."""
    tokens: int
    """Tokens read and written, as the endpoint counts them."""
    thinking_tokens: int | None
    """How many of them were thought, where it counts them apart."""
    choice: Mapping[str, Any]
    """The raw text."""


def reply_of(answer: Mapping[str, Any]) -> Reply:
    """The first, and only, choice of an answer."""
    choice = answer["choices"][0]
    found = choice.get("message") or choice.get("delta")
    message: Mapping[str, Any] = found if isinstance(found, Mapping) else {"content": found or choice.get("text")}
    written, thought = _parts(message.get("content"))
    written = written or _called(message)
    thought += "".join(_flat(message.get(field)) for field in _THOUGHT_FIELDS)
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    text, unfinished, inside = _without_thinking(written)
    ended = str(choice.get("finish_reason") or choice.get("native_finish_reason") or "").lower()
    thinking_tokens = _thinking_tokens(usage)
    thinks = bool(thought.strip()) or inside or bool(thinking_tokens)
    is_cut_off = bool(_CUT_OFF.search(ended)) or unfinished
    if not text and not is_cut_off and _ANSWER_ALONE.fullmatch(thought.strip()):
        # A server that restricts the answer but reads all of it as reasoning puts it there.
        text = thought.strip()
    is_cut_off = is_cut_off or (thinks and not text)
    refusal = _flat(message.get("refusal")) or (ended if _FILTERED.search(ended) else "")
    return Reply(text, thinks, is_cut_off, refusal or None, _tokens(usage), thinking_tokens, choice)


def body_of(text: str) -> Any:
    """The JSON of a body, without what some servers put around it; None where there is none.

    A stream of events, which some servers send unasked and some models only have, becomes one answer.
    """
    try:
        value = json.loads(_LIVES.sub("", text))
    except ValueError:
        return _streamed(text) if _EVENTS.match(text) else None
    value = _json_or_none(value) if isinstance(value, str) else value  # some servers put the JSON into a text
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(inner, Mapping) and "choices" not in inner and isinstance(inner.get("body"), str):
        inner = _json_or_none(inner["body"])  # Lambda functions behind AWS's API Gateway
    for key in ("data", "result", "response"):
        if isinstance(inner, Mapping) and "choices" not in inner and isinstance(inner.get(key), Mapping):
            inner = inner[key]
    return inner if isinstance(inner, Mapping) and (inner.get("choices") or inner.get("error")) else value


def _streamed(text: str) -> Any:
    """The whole answer from a stream's chunks, or the first chunk with an error; a message counts without an answer."""
    lines = _EVENT.findall(text)
    chunks = [found for line in lines if isinstance(found := _json_or_none(line), dict)]
    whole: dict[str, Any] = {}
    fields: dict[str, str] = {}
    spoken = [chunk for chunk in chunks if _only_speaks(chunk)]
    fails = re.search(r"^event:\s*error", text, re.M) is not None
    for chunk in chunks:
        if chunk.get("error") or (chunk in spoken and (fails or says_failure(chunk))):
            return chunk
        if chunk in spoken:
            continue
        if not chunk.get("choices", True):
            whole.update(usage=chunk.get("usage"))
            continue
        choice = (chunk.get("choices") or [{}])[0]
        part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        for name in ("content", *_THOUGHT_FIELDS, "refusal"):
            fields[name] = fields.get(name, "") + _flat(part.get(name))
        whole["finish_reason"] = choice.get("finish_reason") or whole.get("finish_reason")
        whole["usage"] = chunk.get("usage") or whole.get("usage")
    if not fields:
        return spoken[0] if spoken else None
    message = {name: text for name, text in fields.items() if text}
    is_whole = whole.get("usage") or any(line.strip() == "[DONE]" for line in lines)
    ended = whole.get("finish_reason") or (None if is_whole else BROKEN_OFF)
    choice = {"message": {"content": "", **message}, "finish_reason": ended}
    return {"choices": [choice], "usage": whole.get("usage")}


def _only_speaks(chunk: Mapping[str, Any]) -> bool:
    """Whether an event has a message of the server in place of a part of the answer."""
    return "choices" not in chunk and any(isinstance(chunk.get(key), str) for key in ("message", "msg", "detail"))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _called(message: Mapping[str, Any]) -> str:
    """The arguments of a call under a schema, as the model wrote them or as its server parsed them."""
    calls = message.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else None
    function = first.get("function") if isinstance(first, Mapping) else message.get("function_call")
    found = function.get("arguments") if isinstance(function, Mapping) else message.get("parsed")
    return json.dumps(found) if isinstance(found, Mapping) else _flat(found)


def json_objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The outermost JSON objects in a text, in order; also with single quotes."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            value, end = _single_quoted(text, place)
        if isinstance(value, dict):
            yield value
        place = text.find("{", max(end, place + 1))


def _parts(content: Any) -> tuple[str, str]:
    """The text and the reasoning of a content, which may be a list of parts or the JSON itself."""
    if isinstance(content, Mapping) and "text" not in content:
        return json.dumps(content), ""
    if not isinstance(content, list):
        return _flat(content), ""
    answer: list[str] = []
    thought: list[str] = []
    for part in content:
        kind = str(part.get("type", "text")) if isinstance(part, Mapping) else "text"
        is_thought = "think" in kind or "reason" in kind or (isinstance(part, Mapping) and part.get("thought") is True)
        (thought if is_thought else answer).append(_flat(part))
    return "".join(answer), "".join(thought)


def _flat(value: Any) -> str:
    """The text in a field: directly, in the parts of a list, or in a part's own fields."""
    if isinstance(value, list):
        return "".join(map(_flat, value))
    if isinstance(value, Mapping):
        fields = ("text", "thinking", "reasoning", "summary", "content")
        return next((_flat(value[key]) for key in fields if value.get(key)), "")
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _without_thinking(text: str) -> tuple[str, bool, bool]:
    """The text after the last block of reasoning, whether a block was left open, and whether there was any."""
    *thought, rest = _CLOSED.split(text)
    answer, *left_open = _OPENED.split(rest, maxsplit=1)
    answer = _MARKS_BEFORE.sub("", answer.strip())
    while mark := _MARK_BEHIND.search(answer, max(0, len(answer) - _LONGEST_MARK)):
        answer = answer[: mark.start()].rstrip()
    return answer.strip(), bool(left_open), bool(thought or left_open)


def _single_quoted(text: str, place: int) -> tuple[Any, int]:
    """The object in Python's notation that begins here, and where it ends."""
    end = text.find("}", place, place + _LONGEST_QUOTED) + 1
    try:
        return (ast.literal_eval(text[place:end]), end) if end else (None, place)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None, place


def _tokens(usage: Mapping[str, Any]) -> int:
    pairs = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
    return _whole(usage.get("total_tokens")) or max(sum(_whole(usage.get(key)) for key in pair) for pair in pairs)


def _thinking_tokens(usage: Mapping[str, Any]) -> int | None:
    for key in ("completion_tokens_details", "output_tokens_details"):
        details = usage.get(key)
        if isinstance(details, Mapping) and "reasoning_tokens" in details:
            return _whole(details["reasoning_tokens"])
    return _whole(usage["reasoning_tokens"]) if "reasoning_tokens" in usage else None


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0


@dataclass(frozen=True)
class Answer:
    """An endpoint's answer to one prompt."""

    label: System | None
    """The label; None: none of the words."""
    raw: str
    tokens: int
    """Tokens read and written, as the endpoint counts them."""
    thinking_tokens: int | None = None
    """How many of them were thought, where it counts them apart."""
    log_probs: Mapping[System, float] | None = None
    """The unmasked log-probability of each label word, where the endpoint gives it."""


class Constraint(Protocol):
    """One way to restrict an answer to the label words."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def may_think(self) -> bool:
        """Whether a model may write something else first, so that it needs more tokens."""

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The body with the restriction, and with `max_tokens` for an answer without reasoning."""

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The answer; raises KeyError, IndexError, TypeError, ValueError or AttributeError where a required part of the
        API's answer is missing.
        """


class Choice:
    """vLLM's structured_outputs: exactly one of the words."""

    name = "structured_outputs"
    may_think = True

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """The words as choices; a token has at least one byte, so one token for each byte is enough."""
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
    """OpenAI's form; some servers know neither `strict` nor `additionalProperties`."""
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
    """The prompt's last message asks for the JSON. Only for chats: a text to be continued has no place for it."""

    any_json: bool = True
    """Whether to use the response format that allows any JSON."""
    may_think = True

    @property
    def name(self) -> str:
        """What it is called."""
        return "JSON mode" if self.any_json else "asked in words"

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """Both allowed objects, written out after the question."""
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
    """vLLM with label words of one token: only these tokens may follow, and their log-probabilities are returned."""

    tokens: Mapping[System, int]
    name = "allowed_token_ids"
    may_think = False

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """One of the allowed tokens. Log-probabilities are computed before this restriction."""
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
        """The likeliest word by log-probability."""
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
    """A token has at least one byte; the rest is for the JSON around the word and white space."""
    return max(len(word.encode()) for word in _words(prompt)) + 32


def _read_json(reply: Reply, prompt: Prompt) -> Answer:
    """The label in the text's JSON; None where objects in it differ."""
    labelled = [value for found in json_objects(reply.text) for value in _labels_in(found)]
    bare = _label_of(reply.text, prompt)
    if bare is None and not reply.is_cut_off:
        bare = _label_of(_NAMED.sub("", reply.text), prompt)
    labels = {_label_of(one, prompt) for one in labelled} or {bare}
    return Answer(labels.pop() if len(labels) == 1 else None, reply.text, reply.tokens, reply.thinking_tokens)


def _labels_in(found: Mapping[str, Any]) -> list[str]:
    """The value of `label`, or the only value: without a schema, models may name or wrap it differently."""
    value = found.get("label", next(iter(found.values())) if len(found) == 1 else None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        return _labels_in(value)
    return [value] if isinstance(value, str) else []


def _label_of(text: str, prompt: Prompt) -> System | None:
    """The label of a text that is one of the words, apart from case and characters around it."""
    for plain in (str.strip, _plain):
        found = [system for system, word in prompt.continuations.items() if plain(word) == plain(text) != ""]
        if len(found) == 1:
            return found[0]
    return None


def _plain(text: str) -> str:
    return text.strip(_AROUND_A_WORD).casefold()
