"""One question to an endpoint, written as its model takes it: what a refusal or a cut-off answer teaches is remembered.

Some models refuse `max_tokens` (they want `max_completion_tokens`) or any temperature but their own, and some think
before they answer and need room for that. None of it can be looked up, so it is found out by asking: mostly by the
probe, and by a row where the endpoint changes its mind. Each thing found out is said once.

Servers also ignore what they do not know, so a restriction that is accepted proves nothing. The probe allows two
made-up words that no model would say by itself: an answer that is one of them was restricted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lorapar.config import EndpointOptions
from lorapar.errors import BadInputError, UnreachableError
from lorapar.records import System
from lorapar.voting.endpoint_client import EndpointClient, NoAnswerError, RefusedError
from lorapar.voting.endpoint_failures import Failure
from lorapar.voting.endpoint_reply import (
    Answer,
    Body,
    Choice,
    Constraint,
    JsonAsked,
    JsonEnum,
    Reply,
    TokenRead,
    reply_of,
    request_of,
)
from lorapar.voting.templates import Message, Prompt

ROOMS_TO_THINK = (0, 512, 2048, 8192)
"""Tokens beside the label's that an answer may have, one after another as answers are cut off."""
_LIMITS = ("max_tokens", "max_completion_tokens", None)
"""What the limit is called, one after another as they are refused; None: no limit is sent."""
_GUESSES = ((0, True), (0, False), (1, True), (1, False))
"""What to try where refusals name no cause: the place of the limit's name, and whether temperature is sent."""
_ABOUT_THE_REQUEST = frozenset({400, 404, 422})
_NOT_OPTIONAL = frozenset({"model", "messages", "prompt"})
_SHOWN_CHARACTERS = 200
_QUESTION = "Say hello."
_WORDS: dict[System, str] = {"system1": "zqxamber", "system2": "wvkcobalt"}
_PROBES = (
    Prompt(({"role": "user", "content": _QUESTION},), None, _WORDS),
    Prompt(None, _QUESTION, {system: " " + word for system, word in _WORDS.items()}),
)
_IN_CHATS: tuple[Constraint, ...] = (Choice(), JsonEnum(), JsonEnum(False), JsonAsked(), JsonAsked(False))
_IN_TEXTS: tuple[Constraint, ...] = (Choice(), JsonEnum(), JsonEnum(False))
# Refusals that have nothing to do with the restriction.
_WHO_ASKS, _NOT_THERE = (401, 402, 403), (404, 405)
_BLANK = (400, 422)
"""Statuses of a refusal that may be about any field of the request."""
_TEMPLATE_FIELDS = ("chat_template_kwargs", "chat_template", "add_generation_prompt", "continue_final_message")
"""Fields of a body that change how the messages become tokens."""
_BROKEN = 500
"""The status of servers that fall over a way of asking that they do not know."""
_FEW_TRIES = 2
_SHOWN_REFUSAL_CHARACTERS = 160
_SHOWN_NAMES = 8


class Asker:
    """Asks one model at one endpoint. `say` is told, in one line each, what is asked otherwise than it would be."""

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
        self._stream = False
        self._system = True
        self.attempts: int | None = None
        """Tries of one request, where they shall be fewer than the settings say."""
        self.thinks = False
        """Whether the model was seen to think before it answers."""

    async def ask(self, prompt: Prompt, constraint: Constraint, *, tries: int = 1) -> Answer:
        """The answer to a prompt, asked again up to `tries` times where it is none of the words.

        Raises RefusedError where the endpoint says no, UnreachableError where there is no answer to be had.
        """
        asked, most = 0, None
        while True:
            path, body = self.request(prompt, constraint, most)
            room = self._room
            try:
                reply = reply_of(await self.client.post(path, body, attempts=self.attempts))
            except RefusedError as error:
                if error.failure.too_long and (fitting := self._smaller(error.failure, body)) is not None:
                    most = fitting  # of this row alone: others may be shorter
                    continue
                if self._learned(error.failure, body, room):
                    continue
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
            # An empty answer to the probe: some hide that the model was still thinking.
            if constraint.may_think and (reply.is_cut_off or (tries == 1 and not reply.text)):
                if self._has_more_room(room):
                    continue
                if reply.is_cut_off and (reply.thinks or not reply.text):
                    raise UnreachableError(f"{self.client.address}: {self._cut_off(body, reply)}")
            asked += 1
            if asked >= tries:
                return answer
            await self.client.pause(asked)

    def log(self, what: str) -> None:
        """Tell in one line what was found out about the endpoint."""
        self._log(f"{self.client.address} {what}")

    async def find_version(self) -> bool:
        """Ask below `/v1` from now on, where the address names no version and models are listed there."""
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
        """Ask otherwise after refusals that name no cause; False once there is nothing left to guess."""
        if number >= len(_GUESSES):
            return False
        self._limit, self._temperature = _GUESSES[number]
        return True

    def log_guess(self) -> None:
        """Say what was guessed, once it was right."""
        limit = f"with {_LIMITS[self._limit]}" if self._limit else ""
        rest = "" if self._temperature else "without temperature, so that a vote need not repeat"
        self.log(f"is asked {' and '.join(filter(None, (limit, rest)))}: it refuses others without a reason")

    def request(self, prompt: Prompt, constraint: Constraint, most: int | None = None) -> tuple[str, Body]:
        """Path and body of a question, as far as it is known what this model takes; `most` tokens may be answered."""
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
            raise UnreachableError(f"{self.client.address}: an answer that is not shaped as the API says") from None

    def _learned(self, failure: Failure, body: Body, room: int) -> bool:
        """Whether the request was refused for something that it can do without, or needs; it is sent so from now on."""
        if not self._stream and "stream" not in body and re.search(r"\bstream", failure.words, re.I):
            self._stream = True
            self.log(f"is asked for streams: it gives no whole answers ({failure.words[:_SHOWN_CHARACTERS]})")
            return True
        if failure.no_system and failure.status in _ABOUT_THE_REQUEST and _has_system(body):
            if self._system:
                self._system = False
                self.log(f"takes no system message ({failure.words[:_SHOWN_CHARACTERS]}): its text opens the question")
            return True
        cause = cause_of(failure, body)
        if cause is None or cause in self.extra_body:
            return False
        why = f"it refuses {cause} ({failure.words[:_SHOWN_CHARACTERS]})"
        if cause == "temperature":
            if self._temperature:
                self._temperature = False
                self.log(f"is asked without temperature: {why}; a vote need not repeat")
            return True
        if cause in _LIMITS:
            if failure.too_small and self._has_more_room(room):
                return True
            if (fewer := self._smaller(failure, body)) is not None:
                if self._most is None or fewer < self._most:
                    self._most = fewer
                    self.log(f"is asked for at most {fewer} tokens: {why}")
                return True
            if _LIMITS[self._limit] == cause:
                self._limit += 1
                name = _LIMITS[self._limit]
                how = f"with {name}" if name is not None else "without a limit to its answers"
                self.log(f"is asked {how}: {why}")
            return True
        return False

    def _smaller(self, failure: Failure, body: Body) -> int | None:
        """How many tokens to ask for where more than a label's were too many; None where that is not it."""
        asked = next((body[name] for name in _LIMITS if name in body), 0)
        if not failure.too_large or self._max_tokens is not None or self._has_own_limit or asked < ROOMS_TO_THINK[1]:
            return None
        fewer = failure.largest_instead_of(asked)
        return fewer if fewer > 0 else None

    def _has_more_room(self, room: int) -> bool:
        """Whether a cut-off answer may be asked for again with more tokens than it had."""
        if self._max_tokens is not None or self._has_own_limit or _LIMITS[self._limit] is None:
            return False
        if room == self._room:
            if room + 1 == len(ROOMS_TO_THINK) or self._most is not None:
                return False
            self._room += 1
            self.log(
                f"cut an answer off; each may have {ROOMS_TO_THINK[self._room]} tokens more, as a model that thinks "
                "needs (openai.max_tokens sets how many)"
            )
        return True

    def _cut_off(self, body: Body, reply: Reply) -> str:
        at = next((f" at {body[name]} tokens" for name in _LIMITS if name in body), "")
        while_ = " while the model was still thinking" if reply.thinks else ""
        return (
            f"the answer was cut off{at}{while_}; openai.max_tokens gives it more, and openai.extra_body may make it "
            "think less ({reasoning_effort: low}, or {chat_template_kwargs: {enable_thinking: false}})"
        )


def cause_of(failure: Failure, body: Body) -> str | None:
    """The field of a request that it was refused for: the one named as such, or mentioned first; None for no such."""
    if failure.status not in _ABOUT_THE_REQUEST:
        return None
    if failure.parameter in body:
        return failure.parameter
    places = {
        key: found.start()
        for key in body
        if key not in _NOT_OPTIONAL and (found := re.search(rf"(?<!\w){re.escape(key)}(?!\w)", failure.words))
    }
    return min(places, key=lambda key: places[key]) if places else None


def _has_system(body: Body) -> bool:
    return bool(body.get("messages")) and body["messages"][0]["role"] == "system"


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """Messages of which the system's opens the user's first one."""
    first, *rest = messages
    if first["role"] != "system":
        return list(messages)
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": first["content"]}, *rest]
    return [{"role": "user", "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


class NoVoteError(UnreachableError):
    """The endpoint works, and this one row it does not answer; the others may go on."""


def _refused_row(address: str, refusal: str) -> NoVoteError:
    return NoVoteError(
        f"{address}: it would not answer this row ({' '.join(refusal.split())[:_SHOWN_CHARACTERS]}); leave the row out "
        "of the data, change the provider's filter, or let another teacher vote"
    )


class _RefusedWithoutCauseError(Exception):
    """Every way of asking was refused, and none of the refusals names what it is about."""


async def probe(asker: Asker, sample: Prompt, *, same_ending: bool) -> Constraint:
    """The best way of holding answers to label words that the endpoint honours, for prompts like `sample`.

    `same_ending`: all prompts end in the same characters, so that a label word has the same tokens after each of them.
    Raises BadInputError where the endpoint honours none, refuses the key or does not know the model.
    """
    guess, first = 0, ""
    while True:
        try:
            found = await _best(asker, sample.messages is not None)
            asker.attempts = None
            break
        except _RefusedWithoutCauseError as refused:
            guess, first = guess + 1, first or str(refused)
            if not asker.change_guess(guess):
                raise BadInputError(f"{first}; fix model, endpoint or openai.extra_body") from None
    if guess:
        asker.log_guess()
    if isinstance(found, JsonAsked):
        asker.log(f"takes no JSON schema, so each prompt asks for its JSON in words ({found.name})")
    if same_ending and isinstance(found, Choice) and not asker.thinks:
        return await _token_read(asker, sample) or found
    return found


async def _best(asker: Asker, in_chats: bool) -> Constraint:
    test, ways = (_PROBES[0], _IN_CHATS) if in_chats else (_PROBES[1], _IN_TEXTS)
    reasons: dict[str, str] = {}
    explained, refusal = False, ""
    broken: NoAnswerError | None = None
    for constraint in ways:
        if constraint == JsonEnum(False) and "ignored" in reasons[JsonEnum().name]:
            continue  # what is ignored with more in it is not honoured with less
        try:
            found = await asker.ask(test, constraint)
        except NoAnswerError as error:
            if error.status != _BROKEN:
                raise
            broken, asker.attempts = broken or error, _FEW_TRIES  # it may be this way of asking that it falls over
            reasons[constraint.name] = _one_line(error).removeprefix(asker.client.address)
            continue
        except RefusedError as error:
            if error.failure.status in _NOT_THERE and await asker.find_version():
                return await _best(asker, in_chats)
            await _check_refusal(asker, error, in_chats)
            cause = cause_of(error.failure, asker.request(test, constraint)[1])
            if cause in asker.extra_body:
                raise BadInputError(f"{error}; leave {cause} out of openai.extra_body") from error
            explained = explained or cause is not None or error.failure.status not in _BLANK
            refusal = str(error)
            reasons[constraint.name] = refusal.removeprefix(asker.client.address)[:_SHOWN_REFUSAL_CHARACTERS]
            continue
        if found.label is not None:
            if broken is not None:
                asker.log(f"is asked by {constraint.name}: it fails otherwise ({_one_line(broken)})")
            return constraint
        explained = True
        reasons[constraint.name] = f"ignored, it answered '{found.raw[:40]}'"
    if broken is not None and not (explained or refusal):
        raise broken
    if not explained:
        raise _RefusedWithoutCauseError(refusal)
    failed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise BadInputError(
        f"{asker.client.address} cannot hold the answers of {asker.model} to the label words ({failed}); choose an "
        "endpoint with structured_outputs (vLLM) or JSON-schema response formats, or another backend"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN_REFUSAL_CHARACTERS]


async def _check_refusal(asker: Asker, error: RefusedError, in_chats: bool) -> None:
    """Raise BadInputError where the refusal is about the key, the account, the address or the model."""
    status = error.failure.status
    if status in _WHO_ASKS:
        raise BadInputError(f"{error}; {error.failure.advice}") from error
    if error.failure.filtered or 300 <= status < 400:
        raise BadInputError(str(error)) from error
    if status not in _NOT_THERE:
        return
    served = await asker.served()
    if asker.model not in served:
        known = (
            f"; it serves {', '.join(served[:_SHOWN_NAMES])}" if served else ", or no API: most addresses end in /v1"
        )
        more = f" and {len(served) - _SHOWN_NAMES} more" if len(served) > _SHOWN_NAMES else ""
        raise BadInputError(f"{error}: no model '{asker.model}' there{known}{more}; fix model or endpoint") from error
    if not in_chats:
        raise BadInputError(f"{error}; it may know chats alone: set template.style to chat") from error


async def _token_read(asker: Asker, sample: Prompt) -> TokenRead | None:
    """The restriction by tokens, where the server says what they are and each word has one; None elsewhere."""
    try:
        tokens = {system: await _only_token(asker, sample, system) for system in sample.continuations}
        found = {system: token for system, token in tokens.items() if token is not None}
        if len(set(found.values())) != len(sample.continuations):
            return None
        constraint = TokenRead(found)
        await asker.ask(sample, constraint)
    except (UnreachableError, KeyError, IndexError, TypeError, ValueError):
        return None
    return constraint


async def _only_token(asker: Asker, sample: Prompt, system: System) -> int | None:
    """The one token that a label word is after the prompt; None where it is several, or changes those before it."""
    client, model = asker.client, asker.model
    if sample.messages is not None:
        template = {key: asker.extra_body[key] for key in _TEMPLATE_FIELDS if key in asker.extra_body}
        asked = {"model": model, "messages": list(sample.messages), **template}
        alone = (await client.post_beside("/tokenize", asked))["tokens"]
        text = (await client.post_beside("/detokenize", {"model": model, "tokens": alone}))["prompt"]
    else:
        text = str(sample.text)
        alone = (await client.post_beside("/tokenize", {"model": model, "prompt": text}))["tokens"]
    whole = {
        "model": model,
        "prompt": text + sample.continuations[system],
        "add_special_tokens": sample.text is not None,
    }
    both = (await client.post_beside("/tokenize", whole))["tokens"]
    return int(both[-1]) if both[:-1] == alone else None
