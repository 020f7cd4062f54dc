"""A question to an endpoint in the form its model takes, learnt from refusals and cut-off answers.

Some models refuse `max_tokens` (they need `max_completion_tokens`) or any temperature but their own, and some reason
before they answer and need more tokens. No API describes this, so it is found out by asking: mostly by the probe, and
by a row where the endpoint changes. One line reports each finding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorapar.config import EndpointOptions
from lorapar.errors import UnreachableError
from lorapar.voting.endpoint_client import EndpointClient, RefusedError
from lorapar.voting.endpoint_failures import Failure
from lorapar.voting.endpoint_reply import Answer, Body, Constraint, Reply, reply_of, request_of
from lorapar.voting.teacher import Message, Prompt

ROOMS_TO_THINK = (0, 512, 2048, 8192)
"""Extra tokens for an answer beyond the label's, one step after another as answers are cut off."""
_LIMITS = ("max_tokens", "max_completion_tokens", None)
"""Names of the limit, tried one after another as they are refused; None: send no limit."""
_GUESSES = ((0, True), (0, False), (1, True), (1, False))
"""Combinations to try where refusals name no cause: the index of the limit's name, and whether to send temperature."""
_ABOUT_THE_REQUEST = frozenset({400, 404, 422})
_NOT_OPTIONAL = frozenset({"model", "messages", "prompt"})
_SHOWN_CHARACTERS = 200


@dataclass
class _Row:
    """Limits for one row's prompt."""

    most: int | None
    """The tokens that an answer may have; None: as many as for other rows."""
    is_borrowed: bool = True
    """Whether it is an estimate from other rows rather than learnt from this one."""


class Asker:
    """Asks one model at one endpoint. `log` takes one line for each deviation from the usual request."""

    def __init__(
        self, client: EndpointClient, model: str, options: EndpointOptions, log: Callable[[str], None]
    ) -> None:
        self.client = client
        self.model = model
        self.extra_body = options.extra_body
        self._max_tokens = options.max_tokens
        self._has_own_limit = any(name in options.extra_body for name in _LIMITS if name is not None)
        self._log = log
        self._limit = 0
        self._temperature = True
        self._room = 0
        self._most: int | None = None
        self._rooms = RoomByLength()
        self._stream = False
        self._system = True
        self.attempts: int | None = None
        """Tries of one request, if fewer than in the settings."""
        self.thinks = False
        """Whether the model was seen to reason before it answers."""

    async def ask(self, prompt: Prompt, constraint: Constraint, *, tries: int = 1) -> Answer:
        """The answer to a prompt, asked again up to `tries` times where it is none of the words.

        Raises RefusedError where the endpoint refuses, UnreachableError where it does not answer.
        """
        asked, row = 0, _Row(self._rooms.beside(characters_of(prompt)))
        while True:
            path, body = self.request(prompt, constraint, row.most)
            room = self._room
            try:
                reply = reply_of(await self.client.post(path, body, attempts=self.attempts))
            except RefusedError as error:
                learned = self._fitted(error.failure, prompt, body, row) or self._learned(error.failure, body, room)
                if learned and self.request(prompt, constraint, row.most) != (path, body):
                    continue  # and only then: an unchanged request would be refused again and again
                if error.failure.unwritten and (self._has_more_room(room) or asked + 1 < tries):
                    asked += 1
                    await self.client.pause(asked)
                    continue
                raise
            answer = self._read(reply, prompt, constraint)
            self.thinks = self.thinks or reply.thinks
            if answer.label is not None:
                return answer
            if reply.refusal is not None:
                raise _refused_row(self.client.address, reply.refusal)
            # An empty answer to the probe: some servers hide that the model was still reasoning.
            if constraint.may_think and (reply.is_cut_off or (tries == 1 and not reply.text)):
                if self._may_be_longer(body, row, room):
                    continue
                if reply.is_cut_off and (reply.thinks or not reply.text):
                    raise UnreachableError(f"{self.client.address}: {self._cut_off(body, reply)}")
            asked += 1
            if asked >= tries:
                return answer
            await self.client.pause(asked)

    def log(self, what: str) -> None:
        """Log one line about a finding."""
        self._log(f"{self.client.address} {what}")

    async def find_version(self) -> bool:
        """Use `/v1` from now on, where the address names no version and models are listed there."""
        before = self.client.address
        if not self.client.add_version():
            return False
        if not await self.served():
            self.client.address = before
            return False
        self._log(f"{before} has no chat/completions; asking at {self.client.address}")
        return True

    async def served(self) -> list[str]:
        """Names of the models that the endpoint lists; none where it lists none."""
        try:
            return [str(one["id"]) for one in (await self.client.get("/models"))["data"]]
        except (UnreachableError, KeyError, TypeError):
            return []

    def change_guess(self, number: int) -> bool:
        """Change the request after refusals that name no cause; False once there is nothing left to guess."""
        if number >= len(_GUESSES):
            return False
        self._limit, self._temperature = _GUESSES[number]
        return True

    def log_guess(self) -> None:
        """Log the guess once it was right."""
        limit = f"with {_LIMITS[self._limit]}" if self._limit else ""
        rest = "" if self._temperature else "without temperature, so votes may differ between runs"
        self.log(f"is asked {' and '.join(filter(None, (limit, rest)))}: it refuses other requests without a reason")

    def request(self, prompt: Prompt, constraint: Constraint, most: int | None = None) -> tuple[str, Body]:
        """Path and body of a question, with what is known about this model; the answer may have `most` tokens."""
        path, body = request_of(self.model, prompt)
        body = constraint.restrict(body, prompt)
        if not self._system:
            body["messages"] = _without_system(body["messages"])
        tokens, name = body.pop("max_tokens"), _LIMITS[self._limit]
        if constraint.may_think:
            tokens = self._max_tokens or tokens + ROOMS_TO_THINK[self._room]
            tokens = min(tokens, most or tokens, self._most or tokens)
        if name is not None and not self._has_own_limit:
            body[name] = tokens
        if not self._temperature:
            del body["temperature"]
        if self._stream:
            body["stream"] = True
        for key, value in self.extra_body.items():
            body[key] = value
            if value is None:
                del body[key]
        return path, body

    def _read(self, reply: Reply, prompt: Prompt, constraint: Constraint) -> Answer:
        try:
            return constraint.read(reply, prompt)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UnreachableError(f"{self.client.address}: an answer that is not in the API's format") from None

    def _learned(self, failure: Failure, body: Body, room: int) -> bool:
        """Whether a refusal named something that requests can drop or add; they do so from now on."""
        shown = failure.words[:_SHOWN_CHARACTERS]
        if "stream" not in body and re.search(r"\bstream", failure.words, re.I):
            if not self._stream:
                self._stream = True
                self.log(f"is asked for streams: it gives no whole answers ({shown})")
            return True
        if failure.no_system and failure.status in _ABOUT_THE_REQUEST and _has_system(body):
            if self._system:
                self._system = False
                self.log(f"takes no system message ({shown}): its text is put before the question")
            return True
        cause = cause_of(failure, body)
        if cause is None or cause in self.extra_body:
            return False
        if cause == "temperature" and self._temperature:
            self._temperature = False
            self.log(f"is asked without temperature: it refuses temperature ({shown}); votes may differ between runs")
        elif cause in _LIMITS:
            self._learn_limit(cause, failure, body, room)
        return cause == "temperature" or cause in _LIMITS

    def _learn_limit(self, cause: str, failure: Failure, body: Body, room: int) -> None:
        """Change the number of tokens or the name of the limit, where one was refused."""
        why = f"it refuses {cause} ({failure.words[:_SHOWN_CHARACTERS]})"
        if failure.too_small and self._has_more_room(room, why):
            return
        if (fewer := self._smaller(failure, body)) is not None:
            if self._most is None or fewer < self._most:
                self._most = fewer
                self.log(f"is asked for at most {fewer} tokens: {why}")
        elif _LIMITS[self._limit] == cause:
            self._limit += 1
            name = _LIMITS[self._limit]
            how = f"with {name}" if name is not None else "without a limit to its answers"
            self.log(f"is asked {how}: {why}")

    def _smaller(self, failure: Failure, body: Body) -> int | None:
        """A smaller number of tokens where the extra tokens were too many; None where that is not the cause."""
        asked = _tokens_of(body) or 0
        if not failure.too_large or self._max_tokens is not None or self._has_own_limit or asked < ROOMS_TO_THINK[1]:
            return None
        fewer = failure.largest_instead_of(asked)
        return fewer if fewer > 0 else None

    def _fitted(self, failure: Failure, prompt: Prompt, body: Body, row: _Row) -> bool:
        """Whether a row was too long with its tokens and is retried with fewer; rows as long then begin with fewer."""
        if not failure.too_long or (fitting := self._smaller(failure, body)) is None:
            return False
        row.most, row.is_borrowed = fitting, False
        is_first = self._rooms.is_empty
        self._rooms.learn(characters_of(prompt), fitting)
        if is_first:
            self.log(f"is asked for fewer answer tokens where a prompt is long: {failure.words[:_SHOWN_CHARACTERS]}")
        return True

    def _may_be_longer(self, body: Body, row: _Row, room: int) -> bool:
        """Whether a cut-off answer may be asked for again with more tokens."""
        if row.most is None or _tokens_of(body) != row.most:
            return self._has_more_room(room)
        was_borrowed = row.is_borrowed
        row.most, row.is_borrowed = (None, False) if was_borrowed else (row.most, False)
        return was_borrowed

    def _has_more_room(self, room: int, why: str | None = None) -> bool:
        """Whether answers may have more tokens than at that step; if so, they get them from now on.

        `why`: what was refused, where no answer was cut off.
        """
        if self._max_tokens is not None or self._has_own_limit or _LIMITS[self._limit] is None:
            return False
        if room == self._room:
            if room + 1 == len(ROOMS_TO_THINK) or self._most is not None:
                return False
            self._room += 1
            more = f"each may have {ROOMS_TO_THINK[self._room]} tokens more"
            cut = f"cut an answer off; {more}, as a model that thinks needs (openai.max_tokens sets how many)"
            self.log(cut if why is None else f"wants longer answers, so {more}: {why}")
        return True

    def _cut_off(self, body: Body, reply: Reply) -> str:
        at = next((f" at {body[name]} tokens" for name in _LIMITS if name in body), "")
        while_ = " while the model was still thinking" if reply.thinks else ""
        return (
            f"the answer was cut off{at}{while_}; openai.max_tokens gives it more, and openai.extra_body may make it "
            "think less ({reasoning_effort: low}, or {chat_template_kwargs: {enable_thinking: false}})"
        )


def cause_of(failure: Failure, body: Body) -> str | None:
    """The field that caused a refusal: the one named as the cause, or the one mentioned first; None without one."""
    if failure.status not in _ABOUT_THE_REQUEST:
        return None
    if failure.parameter in body:
        return failure.parameter
    places = {key: found.start() for key in body if key not in _NOT_OPTIONAL and (found := _mentioned(key, failure))}
    return min(places, key=lambda key: places[key]) if places else None


def _mentioned(key: str, failure: Failure) -> re.Match[str] | None:
    """Where a refusal mentions a field, also as `maxTokens` or `Max tokens`."""
    name = "[_ -]?".join(map(re.escape, key.split("_")))
    return re.search(rf"(?<!\w){name}(?!\w)", failure.words, re.I)


def _tokens_of(body: Body) -> int | None:
    """The limit of tokens in a request."""
    return next((body[name] for name in _LIMITS if name in body), None)


def _has_system(body: Body) -> bool:
    return bool(body.get("messages")) and body["messages"][0]["role"] == "system"


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """Messages with the system message's text at the start of the first user message."""
    first, *rest = messages
    if first["role"] != "system":
        return list(messages)
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": first["content"]}, *rest]
    return [{"role": "user", "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


class NoVoteError(UnreachableError):
    """The endpoint works but does not answer this row; other rows may go on."""


def _refused_row(address: str, refusal: str) -> NoVoteError:
    return NoVoteError(
        f"{address}: it would not answer this row ({' '.join(refusal.split())[:_SHOWN_CHARACTERS]}); leave the row out "
        "of the data, change the provider's filter, or let another teacher vote"
    )


class RoomByLength:
    """The number of tokens to begin with, by a prompt's characters, learnt from rows with too little room.

    Prompt and answer share a model's context, so a longer row leaves less room. What fitted after one row, less a
    quarter so that somewhat longer rows fit at once too, is the start for rows as long or longer.
    """

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether every row so far has left enough room."""
        return not self._known

    def learn(self, length: int, tokens: int) -> None:
        """Note how many tokens fit after a prompt of this length, where more were refused."""
        first = max(1, tokens - tokens // 4)
        known = self.beside(length)
        if known is None or first < known:
            self._known = {at: most for at, most in self._known.items() if at < length or most < first}
            self._known[length] = first

    def beside(self, length: int) -> int | None:
        """The number of tokens to begin with; None where no prompt of this length or less was refused."""
        return min((most for at, most in self._known.items() if at <= length), default=None)


def characters_of(prompt: Prompt) -> int:
    """A prompt's length, without what the server's template adds."""
    return len(prompt.text or "") + sum(len(message["content"]) for message in prompt.messages or ())
