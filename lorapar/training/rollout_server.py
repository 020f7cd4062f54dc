"""A vLLM server as RL's sampler speaks to it: what it serves, adapters in and out, completions with their numbers.

Adapters travel as plain LoRA and are never merged. Where server and training share a folder, vLLM's own endpoint is
told the path; else the files go over HTTP, which a server with `lorapar.serving.rollout_adapters` takes.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorapar.adapter.folder import CONFIG_FILE, WEIGHTS_FILE
from lorapar.basemodel.load import model_folder
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig, RolloutServer
from lorapar.errors import UnreachableError
from lorapar.stopping import stop_requested
from lorapar.voting.endpoint_client import EndpointClient, Login, NoAnswerError, RefusedError
from lorapar.voting.endpoint_loop import EndpointLoop

SENT_TO = "/lorapar/rollouts"
"""Where lorapar's middleware takes adapters, below /v1."""
MIDDLEWARE = "lorapar.serving.rollout_adapters.RolloutAdapters"
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
_OPENED = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --middleware {MIDDLEWARE}"
GONE = 404
_LOOK_SECONDS = 0.2
"""Between two looks at whether SIGTERM has come."""
_GRACE_SECONDS = 5.0
"""For requests that are on the way when SIGTERM comes."""
_CONTROL_SECONDS = 60.0
"""For one request that has no completion for an answer."""
_BRIEF_SECONDS = 2.0
_DOES_NOT_FIT = 500
T = TypeVar("T")
# The server takes from a model's generation_config.json what a request does not say; TRL's numbers know none of it.
_PLAIN = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class NoRolloutsError(UnreachableError):
    """The server answers, and its answer is of no use to RL."""


@dataclass(frozen=True)
class Completion:
    """Token numbers, and the natural log-probability that each was sampled with."""

    tokens: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Served:
    """What a server says of itself."""

    base: str
    """Name of its base model."""
    adapters: tuple[str, ...]
    longest: int | None
    """Tokens of prompt and completion together that it takes; None where it does not say."""


@dataclass(frozen=True)
class Way:
    """By which adapters come into a server, as it says itself."""

    open: bool
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Probe:
    """The base model's own numbers about some tokens."""

    log_probs: list[float]
    """Of each token but the first, before temperature."""
    processed: bool
    """Whether a sampled token's number comes after temperature and top_k, as the trainer's do."""


def server_command(model: ModelConfig, slot: int, longest: int, *, sent: bool) -> str:
    """The server that rl.rollouts server needs, as a person types it in one line.

    A base that vLLM knows no name of (a bucket's, a wheel's, a built-in one) is named by its folder on this machine.

    Args:
        slot: greatest rank of an adapter, one that vLLM has.
        longest: tokens of a prompt with its completion.
        sent: whether adapters go over HTTP; else both sides see a folder.
    """
    on_hub = kind_of(model) is Kind.HUB
    words = ["python", "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", model.name if on_hub else str(model_folder(model).absolute())]
    words += ["--revision", model.revision] if on_hub and model.revision else []
    words += [] if model.dtype == "auto" else ["--dtype", model.dtype]
    words += ["--trust-remote-code"] if model.trust_remote_code else []
    words += ["--max-model-len", str(longest), *server_arguments(slot, sent=sent)]
    return " ".join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), shlex.join(words)])


def server_arguments(slot: int, *, sent: bool) -> list[str]:
    """What such a server is told beside its model; the chart says the same."""
    middleware = ["--middleware", MIDDLEWARE] if sent else []
    return ["--enable-lora", "--max-lora-rank", str(slot), "--logprobs-mode", "processed_logprobs", *middleware]


class Server:
    """One server; every method raises UnreachableError where it does not answer, RefusedError where it says no.

    Raises BadInputError where a key that it wants is not in the environment.
    """

    def __init__(self, options: RolloutServer, environment: Mapping[str, str] = os.environ) -> None:
        self.options = options
        self._login = Login(options.endpoint, options.openai, environment)

    def look(self) -> Served:
        """Its base model and its adapters."""
        cards = self._within(lambda client: client.get("/models"), _CONTROL_SECONDS).get("data", [])
        bases = [card for card in cards if not card.get("parent")]
        if not bases:
            raise NoRolloutsError(f"{self.options.endpoint} serves no base model")
        adapters = tuple(str(card["id"]) for card in cards if card.get("parent"))
        return Served(str(bases[0]["id"]), adapters, bases[0].get("max_model_len"))

    def facts(self) -> dict[str, Any] | None:
        """What lorapar's middleware says of the server; None where there is none."""
        try:
            found: dict[str, Any] = self._within(lambda client: client.get(SENT_TO), _CONTROL_SECONDS)
        except RefusedError as error:
            if error.failure.status != GONE:
                raise
            return None
        return found

    def loads_paths(self) -> bool:
        """Whether vLLM's own endpoint is there, found out by a request that it cannot follow."""
        try:
            self._send("POST", "/unload_lora_adapter", {"lora_name": "lorapar-none"})
        except RefusedError as error:
            return "lora" in str(error).lower().rpartition("unload_lora_adapter")[2]
        return True

    def load(self, name: str, folder: Path) -> None:
        """Let it answer to `name` with the adapter in a folder; one that it has by this name stays."""
        try:
            if self.options.folder is not None:
                self._load_path(name, folder.resolve())
            else:
                self._send("POST", f"{SENT_TO}/{name}", packed(folder))
        except RefusedError as error:
            if error.failure.status == GONE or name not in self.look().adapters:
                raise

    def _load_path(self, name: str, folder: Path) -> None:
        """By vLLM's own endpoint, which says 500 where an adapter does not fit, as if trying again would help."""
        try:
            self._send("POST", "/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except NoAnswerError as error:
            if error.status == _DOES_NOT_FIT:
                raise NoRolloutsError(str(error)) from None
            raise

    def unload(self, name: str, *, briefly: bool = False) -> None:
        """Let it forget an adapter; `briefly`: one try of two seconds, for what is about to end."""
        if self.options.folder is not None:
            self._send("POST", "/unload_lora_adapter", {"lora_name": name}, briefly=briefly)
        else:
            self._send("DELETE", f"{SENT_TO}/{name}", None, briefly=briefly)

    def probe(self, base: str, prompt: list[int]) -> Probe:
        """What the base model itself makes of a prompt of two tokens or more."""
        one = {"model": base, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, "ignore_eos": True}
        body = {**one, **_PLAIN, "top_k": 1, "logprobs": 0, "prompt_logprobs": 0, "return_token_ids": True}
        choice = self._within(lambda client: client.post("/completions", body))["choices"][0]
        own = self._read(choice)
        try:
            each = zip(prompt[1:], choice["prompt_logprobs"][1:], strict=True)
            found = [float(numbers[str(token)]["logprob"]) for token, numbers in each]
        except (KeyError, TypeError, ValueError):
            raise NoRolloutsError(f"{self.options.endpoint} tells no log-probabilities of a prompt") from None
        return Probe(found, abs(own.log_probs[0]) < 1e-3)  # of one token that may be drawn the probability is 1

    def complete(
        self, name: str, asked: Mapping[int, Mapping[str, Any]], found: MutableMapping[int, Completion]
    ) -> None:
        """Completions of an adapter for what is asked, put into `found` as they come, also where others fail.

        Once one has failed those on the way may end, and no other is asked for. Raises what went wrong first.
        """
        failures: list[Exception] = []

        async def ask(client: EndpointClient, place: int, body: Mapping[str, Any]) -> None:
            own = {"model": name, **_PLAIN, "logprobs": 0, "return_token_ids": True, **body}
            try:
                answer = await client.post("/completions", own)
                found[place] = self._read(answer["choices"][0])
            except Exception as error:
                failures.append(error)
                client.give_up()

        async def ask_all(client: EndpointClient) -> None:
            limit = asyncio.Semaphore(self.options.openai.concurrency)

            async def in_turn(place: int, body: Mapping[str, Any]) -> None:
                async with limit:
                    if not failures:
                        await ask(client, place, body)

            await asyncio.gather(*(in_turn(*one) for one in asked.items()))
            if failures:
                raise failures[0]

        self._within(ask_all)

    def _read(self, choice: Mapping[str, Any]) -> Completion:
        try:
            tokens = [int(token) for token in choice["token_ids"]]
            log_probs = [float(number) for number in choice["logprobs"]["token_logprobs"]]
        except (KeyError, TypeError, ValueError):
            raise NoRolloutsError(
                f"{self.options.endpoint} tells no tokens and log-probabilities, as vLLM does from 0.10.2 on"
            ) from None
        if len(tokens) != len(log_probs):
            raise NoRolloutsError(f"{self.options.endpoint} tells {len(log_probs)} numbers of {len(tokens)} tokens")
        return Completion(tokens, log_probs)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | bytes | None, *, briefly: bool = False) -> None:
        attempts = 1 if briefly else None
        seconds = _BRIEF_SECONDS if briefly else _CONTROL_SECONDS
        self._within(lambda client: client.send(method, path, body, attempts=attempts), seconds)

    def _within(self, work: Callable[[EndpointClient], Coroutine[Any, Any, T]], seconds: float | None = None) -> T:
        """What `work` makes with a client whose requests take no longer than `seconds` each."""

        async def done() -> T:
            client = EndpointClient(self.options.endpoint, self.options.openai, self._login, seconds=seconds)
            client.add_version()
            asked = asyncio.create_task(work(client))
            watch = asyncio.create_task(_end_on_sigterm(client, asked))
            try:
                return await asked
            except asyncio.CancelledError:
                if not watch.done():
                    raise
                raise UnreachableError(f"{client.address}: it had not answered when SIGTERM came") from None
            finally:
                watch.cancel()
                await client.close()

        with asyncio.Runner(loop_factory=EndpointLoop) as runner:
            return runner.run(done())


async def _end_on_sigterm(client: EndpointClient, asked: asyncio.Task[Any]) -> None:
    """A server that answers soon is still listened to: then the step can end. Nothing is tried again."""
    while not stop_requested():
        await asyncio.sleep(_LOOK_SECONDS)
    client.give_up()
    await asyncio.wait([asked], timeout=_GRACE_SECONDS)
    asked.cancel()


def adapters_come_in(server: Server) -> Way:
    """Which way a server is open to adapters: lorapar's middleware, vLLM's own endpoint, or none.

    Raises UnreachableError where it does not answer.
    """
    facts = server.facts()
    if facts is not None:
        if not facts.get("enable_lora"):
            return Way(False, "it takes no adapters", "start it with --enable-lora")
        message = f"it takes adapters over HTTP, of rank up to {facts.get('max_lora_rank')}"
        plain = facts.get("logprobs_mode") != "processed_logprobs"
        return Way(True, message, "--logprobs-mode processed_logprobs, unless rl.temperature is 1" if plain else "")
    if server.loads_paths():
        return Way(True, "it loads adapters from a folder that both see", "name it in rl.server.folder")
    return Way(False, "it can be sent no adapter", f"start it with {_OPENED}, see docs/stages/rl.md")


def packed(folder: Path) -> bytes:
    """An adapter as it is sent: its configuration in one line of JSON, then its safetensors file."""
    config = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    return b" ".join(config.encode().split(b"\n")) + b"\n" + (folder / WEIGHTS_FILE).read_bytes()
