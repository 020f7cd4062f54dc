"""The `openai` backend: a teacher behind an OpenAI-compatible API, asked about many rows at once.

Prompts are the same as for every backend; the server tokenizes them. A vote is its answer, restricted to label words.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

from lorapar.config import EndpointOptions, TeacherConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.records import Example, Vote
from lorapar.voting.endpoint_client import EndpointClient, Login, RefusedError
from lorapar.voting.endpoint_probe import probe
from lorapar.voting.endpoint_reply import Answer, Constraint
from lorapar.voting.endpoint_request import Asker, NoVoteError
from lorapar.voting.teacher import label_of
from lorapar.voting.templates import Prompt, render, template_digest


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
        self._loop = asyncio.new_event_loop()
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
