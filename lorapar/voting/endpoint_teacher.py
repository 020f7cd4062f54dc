"""The `openai` backend: a teacher behind an OpenAI-compatible API, asked about many rows at once.

Prompts are the same as everywhere; the server writes them as tokens. A vote is its answer, held to the label words.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence, Set

from lorapar.config import EndpointOptions, TeacherConfig
from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.records import Example, Vote
from lorapar.voting.endpoint_answers import Answer, Constraint, request_of
from lorapar.voting.endpoint_client import EndpointClient, RefusedError
from lorapar.voting.endpoint_probe import probe
from lorapar.voting.teacher import label_of
from lorapar.voting.templates import Prompt, render, template_digest


class EndpointTeacher:
    """One teacher behind an endpoint (a `lorapar.voting.teacher.Teacher`); `close` ends its connections.

    `environment` holds the key under the name that the settings give. Raises BadInputError where it is missing.
    """

    def __init__(
        self, config: TeacherConfig, *, target: str, role_play: bool, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.config = config
        self.template = template_digest(config.template, target, role_play)
        self._target = target
        self._role_play = role_play
        self._options = config.openai or EndpointOptions()
        headers = _headers(config, self._options, environment)
        self._loop = asyncio.new_event_loop()
        self._client = EndpointClient(str(config.endpoint), self._options, headers)
        self._constraint: Constraint | None = None

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example that is not in `done`, as answers come; `concurrency` requests are on the way.

        Raises BadInputError where the endpoint says no, UnreachableError once a request has failed on every try.
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
                    raise vote
                yield vote
        finally:
            for worker in workers:
                worker.cancel()
            self._loop.run_until_complete(asyncio.gather(*workers, return_exceptions=True))

    def close(self) -> None:
        """End the connections; the teacher cannot be asked afterwards."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _probe(self, example: Example) -> Constraint:
        # After data of any kind a word might have other tokens than after fixed text.
        same_ending = not self.config.template.row.rstrip().endswith("}")
        try:
            return await probe(self._client, str(self.config.model), self._prompt(example), same_ending=same_ending)
        except LoraparError as error:
            raise self._named(error, None) from error

    async def _work(
        self, waiting: Iterator[Example], ready: asyncio.Queue[Vote | Exception], constraint: Constraint
    ) -> None:
        for example in waiting:
            try:
                ready.put_nowait(await self._vote(example, constraint))
            except LoraparError as error:
                ready.put_nowait(self._named(error, example))
                return
            except Exception as bug:  # told to whoever waits for a vote, who would wait for ever otherwise
                ready.put_nowait(bug)
                return

    async def _vote(self, example: Example, constraint: Constraint) -> Vote:
        prompt = self._prompt(example)
        path, body = request_of(str(self.config.model), prompt)
        answer = await self._client.post(path, constraint.restrict(body, prompt))
        try:
            found = constraint.read(answer, prompt)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UnreachableError(
                f"{self._client.address}{path}: an answer that is not shaped as the API says"
            ) from None
        return self._record(example, found)

    def _record(self, example: Example, answer: Answer) -> Vote:
        if answer.label is None:
            raise UnreachableError(f"{self._client.address}: answered '{answer.raw[:60]}', which is none of the words")
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
        )

    def _prompt(self, example: Example) -> Prompt:
        return render(self.config.template, example, self._target, self._role_play)

    def _named(self, error: LoraparError, example: Example | None) -> LoraparError:
        """The same error with the teacher, and the row it was asked about, in front."""
        row = f" row {example.id}:" if example is not None else ""
        kind = BadInputError if isinstance(error, RefusedError) else type(error)
        return kind(f"teacher '{self.config.name}':{row} {error}")


def _headers(config: TeacherConfig, options: EndpointOptions, environment: Mapping[str, str]) -> dict[str, str]:
    if options.api_key_env is None:
        return {}
    key = environment.get(options.api_key_env, "").strip()
    if not key:
        raise BadInputError(
            f"teacher '{config.name}': the environment variable {options.api_key_env}, which holds the key for "
            f"{config.endpoint}, is not set; set it, or leave openai.api_key_env out where no key is needed"
        )
    return {"Authorization": f"Bearer {key}"}
