"""A model behind an OpenAI-compatible API that writes free answers, asked about many conversations at once.

It has the same client, retries and handling of refusals as voting teachers, but no restriction of the answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from lorapar.config import EndpointOptions
from lorapar.config.capture import CaptureTeacher
from lorapar.errors import BadInputError, LoraparError
from lorapar.voting.endpoint_client import EndpointClient, Login, RefusedError
from lorapar.voting.endpoint_loop import EndpointLoop
from lorapar.voting.endpoint_reply import Answer, Body, Reply
from lorapar.voting.endpoint_request import Asker
from lorapar.voting.endpoint_teacher import is_about_the_row
from lorapar.voting.teacher import Prompt

LONGEST_TOKENS = 1024
"""The tokens of an answer, unless `openai.max_tokens` is set; reasoning or cut-off answers get more."""
_WHOLE = "whole"
Messages = Sequence[tuple[str, str]]


class _Free:
    """Any text that is not empty or cut off."""

    name = "any text"
    may_think = True

    def restrict(self, body: Body, prompt: Prompt) -> Body:
        """Only the limit of tokens."""
        return {**body, "max_tokens": LONGEST_TOKENS}

    def read(self, reply: Reply, prompt: Prompt) -> Answer:
        """The text itself."""
        whole = bool(reply.text) and not reply.is_cut_off and reply.refusal is None
        return Answer(_WHOLE if whole else None, reply.text, reply.tokens, reply.thinking_tokens)


class TextTeacher:
    """One model that writes answers; `environment` holds its key. Raises BadInputError where that is missing."""

    def __init__(
        self,
        config: CaptureTeacher,
        log: Callable[[str], None],
        whose: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`whose` begins its messages."""
        self._config, self._whose = config, whose
        self._options = config.openai or EndpointOptions()
        try:
            login = Login(config.endpoint, self._options, environment)
            client = EndpointClient(config.endpoint, self._options, login)
        except LoraparError as error:
            raise self._named(error) from error
        self._asker = Asker(client, config.model, self._options, lambda line: log(f"{whose}: {line}"))

    def answers(self, asked: Mapping[str, Messages]) -> Iterator[tuple[str, str | None]]:
        """(id, answer) as they come; None for one that it refuses, or that stays cut off.

        Raises BadInputError where the endpoint refuses more than one conversation, UnreachableError where it fails;
        answers that have arrived are returned first.
        """
        loop = EndpointLoop()
        ready: asyncio.Queue[tuple[str, str | None] | Exception] = asyncio.Queue()
        waiting = iter(asked.items())
        workers = [
            loop.create_task(self._work(waiting, ready)) for _ in range(min(self._options.concurrency, len(asked)))
        ]
        try:
            for _ in asked:
                found = loop.run_until_complete(ready.get())
                if isinstance(found, Exception):
                    while not ready.empty():
                        if not isinstance(more := ready.get_nowait(), Exception):
                            yield more
                    raise found
                yield found
        finally:
            for worker in workers:
                worker.cancel()
            loop.run_until_complete(asyncio.gather(*workers, return_exceptions=True))
            loop.run_until_complete(self._asker.client.close())
            loop.close()

    async def _work(
        self,
        waiting: Iterator[tuple[str, Messages]],
        ready: asyncio.Queue[tuple[str, str | None] | Exception],
    ) -> None:
        for name, messages in waiting:
            try:
                answer = await self._asker.ask(self._prompt(messages), _Free())
                ready.put_nowait((name, answer.raw if answer.label is not None else None))
            except LoraparError as error:
                if is_about_the_row(error):
                    ready.put_nowait((name, None))
                    continue
                self._asker.client.give_up()
                ready.put_nowait(self._named(error))
            except Exception as bug:  # passed to the waiting thread, which would otherwise wait for ever
                self._asker.client.give_up()
                ready.put_nowait(bug)
            if self._asker.client.given_up:
                return

    def _prompt(self, messages: Messages) -> Prompt:
        own = self._config.instruction
        turns = [("system", own), *(one for one in messages if one[0] != "system")] if own is not None else messages
        return Prompt(tuple({"role": role, "content": text} for role, text in turns), None, {})

    def _named(self, error: LoraparError) -> LoraparError:
        refused = isinstance(error, RefusedError)
        advice = f"; {error.failure.advice}" if isinstance(error, RefusedError) and error.failure.advice else ""
        kind = BadInputError if refused else type(error)
        return kind(f"{self._whose}: {error}{advice}")
