"""The `openai` backend: a teacher behind an OpenAI-compatible API, asked about many rows at once.

Prompts are the same as for every backend; the server tokenizes them. A vote is its answer, restricted to label words.
How the endpoint restricts answers is found out by trying one way after another. Servers ignore unknown fields, so an
accepted restriction proves nothing. The probe allows two invented words that no model would say by itself: an answer
that is one of them was restricted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

from lorapar.config import EndpointOptions, TeacherConfig
from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.records import Example, System, Vote
from lorapar.voting.endpoint_client import EndpointClient, Login, NoAnswerError, RefusedError
from lorapar.voting.endpoint_loop import EndpointLoop
from lorapar.voting.endpoint_reply import Answer, Choice, Constraint, JsonAsked, JsonEnum, TokenRead
from lorapar.voting.endpoint_request import Asker, NoVoteError, cause_of
from lorapar.voting.teacher import Prompt, label_of, render, template_digest

_QUESTION = "Say hello."
_WORDS: dict[System, str] = {"system1": "zqxamber", "system2": "wvkcobalt"}
_PROBES = (
    Prompt(({"role": "user", "content": _QUESTION},), None, _WORDS),
    Prompt(None, _QUESTION, {system: " " + word for system, word in _WORDS.items()}),
)
_IN_CHATS: tuple[Constraint, ...] = (Choice(), JsonEnum(), JsonEnum(False), JsonAsked(), JsonAsked(False))
_IN_TEXTS: tuple[Constraint, ...] = (Choice(), JsonEnum(), JsonEnum(False))
# Refusals that are unrelated to the restriction.
_WHO_ASKS, _NOT_THERE = (401, 402, 403), (404, 405)
_BLANK = (400, 422)
"""Statuses of a refusal that may be about any field of the request."""
_TEMPLATE_FIELDS = ("chat_template_kwargs", "chat_template", "add_generation_prompt", "continue_final_message")
"""Fields of a body that change how the messages become tokens."""
_BROKEN = 500
"""The status of servers that fail at a form of request that they do not know."""
_FEW_TRIES = 2
_SHOWN_REFUSAL_CHARACTERS = 160
_SHOWN_NAMES = 8


class EndpointTeacher:
    """One teacher behind an endpoint (a `lorapar.voting.teacher.Teacher`); `close` ends its connections.

    `environment` holds the key under the name that the settings give. Raises BadInputError where it is missing. `whose`
    begins its messages, where "teacher" and a name would not fit.
    """

    def __init__(
        self,
        config: TeacherConfig,
        *,
        target: str,
        role_play: bool,
        environment: Mapping[str, str] = os.environ,
        log: Callable[[str], None] = lambda line: None,
        whose: str | None = None,
    ) -> None:
        self.config = config
        self._whose = whose or f"teacher '{config.name}'"
        self.template = template_digest(config.template, target, role_play)
        self._target = target
        self._role_play = role_play
        self._options = config.openai or EndpointOptions()
        try:
            login = Login(str(config.endpoint), self._options, environment)
            self._client = EndpointClient(str(config.endpoint), self._options, login)
        except LoraparError as error:
            raise self._named(error, None) from error
        self._asker = Asker(self._client, str(config.model), self._options, lambda line: log(f"{self._whose}: {line}"))
        self._loop = EndpointLoop()
        self._constraint: Constraint | None = None

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example that is not in `done`, as answers come, with `concurrency` requests at once.

        A row gets a vote without a label if the provider's filter or the model refuses it, if it is too long, or if its
        answers are none of the words. Raises BadInputError where the endpoint refuses more than the row,
        UnreachableError once a request has failed on every try; answers on the way are returned first.
        """
        asked = [example for example in examples if example.id not in done]
        if not asked:
            return
        if self._constraint is None:
            self._constraint = self._loop.run_until_complete(self._probe(asked[0]))
        waiting, ready = iter(asked), asyncio.Queue[Vote | Exception]()
        workers = [
            self._loop.create_task(self._work(waiting, ready, self._constraint))
            for _ in range(min(self._options.concurrency, len(asked)))
        ]
        try:
            for _ in asked:
                vote = self._loop.run_until_complete(ready.get())
                if isinstance(vote, Exception):
                    yield from self._on_the_way(workers, ready)
                    raise vote
                yield vote
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*workers, return_exceptions=True))

    def close(self) -> None:
        """End the connections; the teacher cannot be asked afterwards."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def _on_the_way(
        self, workers: Sequence[asyncio.Task[None]], ready: asyncio.Queue[Vote | Exception]
    ) -> Iterator[Vote]:
        """Votes that arrive after another request has failed: they are paid for, and no new row begins."""
        self._client.give_up()
        self._loop.run_until_complete(asyncio.wait(workers, timeout=self._options.timeout_seconds))
        while not ready.empty():
            vote = ready.get_nowait()
            if isinstance(vote, Vote):
                yield vote

    async def _probe(self, example: Example) -> Constraint:
        # After arbitrary data a word might have other tokens than after fixed text.
        same_ending = not self.config.template.row.rstrip().endswith("}")
        try:
            return await probe(self._asker, self._prompt(example), same_ending=same_ending)
        except LoraparError as error:
            raise self._named(error, None) from error

    async def _work(
        self, waiting: Iterator[Example], ready: asyncio.Queue[Vote | Exception], constraint: Constraint
    ) -> None:
        for example in waiting:
            try:
                answer = await self._asker.ask(self._prompt(example), constraint, tries=self._options.attempts)
                ready.put_nowait(self._record(example, answer))
            except LoraparError as error:
                named = self._named(error, example)
                if is_about_the_row(error):
                    ready.put_nowait(self._abstention(example, str(named)))
                    continue
                self._client.give_up()
                ready.put_nowait(named)
            except Exception as bug:  # passed to the thread that waits for a vote, which would otherwise wait for ever
                self._client.give_up()
                ready.put_nowait(bug)
            if self._client.given_up:
                return

    def _record(self, example: Example, answer: Answer) -> Vote:
        if answer.label is None:
            what = "gave an empty answer"
            if answer.raw:
                what = f"answered '{answer.raw[:60]}', which is none of the label words"
            raise NoVoteError(f"{self._client.address}: {what}, {self._options.attempts} times")
        sure = label_of(answer.log_probs)[1] if answer.log_probs is not None else None
        return Vote(
            example_id=example.id,
            teacher=self.config.name,
            label=answer.label,
            weight=self.config.weight,
            confidence=sure,
            log_probs={str(system): value for system, value in answer.log_probs.items()} if answer.log_probs else None,
            template=self.template,
            raw=answer.raw,
            tokens=answer.tokens,
            thinking_tokens=answer.thinking_tokens,
        )

    def _abstention(self, example: Example, why: str) -> Vote:
        return Vote(
            example_id=example.id,
            teacher=self.config.name,
            weight=self.config.weight,
            template=self.template,
            raw=why,
        )

    def _prompt(self, example: Example) -> Prompt:
        return render(self.config.template, example, self._target, self._role_play)

    def _named(self, error: LoraparError, example: Example | None) -> LoraparError:
        """The same error, with the teacher and the row before it and what to do after it."""
        row = f" row {example.id}:" if example is not None else ""
        refused = isinstance(error, RefusedError)
        advice = f"; {error.failure.advice}" if isinstance(error, RefusedError) and error.failure.advice else ""
        kind = BadInputError if refused else type(error)
        return kind(f"{self._whose}:{row} {error}{advice}")


def is_about_the_row(error: LoraparError) -> bool:
    """Whether the error concerns only this row."""
    if isinstance(error, RefusedError):
        return error.failure.filtered or error.failure.too_long
    return isinstance(error, NoVoteError)


class _RefusedWithoutCauseError(Exception):
    """Every way was refused, and no refusal names its cause."""


async def probe(asker: Asker, sample: Prompt, *, same_ending: bool) -> Constraint:
    """The best restriction to label words that the endpoint honours, for prompts like `sample`.

    `same_ending`: all prompts end in the same characters, so a label word has the same tokens after each of them.
    Raises BadInputError where the endpoint honours no restriction, refuses the key or does not know the model.
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
            continue  # a restriction that is ignored with more fields is not honoured with fewer
        try:
            found = await asker.ask(test, constraint)
        except NoAnswerError as error:
            if error.status != _BROKEN:
                raise
            broken, asker.attempts = broken or error, _FEW_TRIES  # it may fail only at this form of request
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
                asker.log(f"is asked by {constraint.name}: other ways fail ({_one_line(broken)})")
            return constraint
        explained = True
        reasons[constraint.name] = f"ignored, it answered '{found.raw[:40]}'"
    if broken is not None and not (explained or refusal):
        raise broken
    if not explained:
        raise _RefusedWithoutCauseError(refusal)
    failed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise BadInputError(
        f"{asker.client.address} cannot restrict the answers of {asker.model} to the label words ({failed}); choose an "
        "endpoint with structured_outputs (vLLM) or JSON-schema response formats, or another backend"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN_REFUSAL_CHARACTERS]


async def _check_refusal(asker: Asker, error: RefusedError, in_chats: bool) -> None:
    """Raise BadInputError where the refusal concerns the key, the account, the address or the model."""
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
    """The restriction by tokens, where the server tokenizes and each word is one token; None elsewhere."""
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
    """The token of a label word after the prompt; None where it has several, or changes the tokens before it."""
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
