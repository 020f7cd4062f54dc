"""Rollouts by a vLLM server: it is sent the adapter at every step, as plain LoRA, and forgets it afterwards.

Several processes share it: the first one sends the adapter, which is the same in all, and each asks for its own rows.
A server that was started anew is sent the adapter again and asked again for what it had not answered, with the same
seeds. One that stays away ends the step in all processes, with the state before it kept.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel

from lorapar.adapter import copy_adapter, rank_in, save_adapter
from lorapar.basemodel import StopStrings
from lorapar.config import RlConfig, lora_slot
from lorapar.errors import BadInputError, LoraparError, StorageError, UnreachableError
from lorapar.ranks import Ranks
from lorapar.stopping import stop_requested
from lorapar.training.ranks import RolloutsLostError, RolloutsUnsentError, StoppedWaitingError, failing_together
from lorapar.training.rollout_server import (
    GONE,
    Completion,
    NoRolloutsError,
    Probe,
    Served,
    Server,
    server_command,
)
from lorapar.training.sampling import Made, sampling_of
from lorapar.training.session import TrainingJob
from lorapar.voting.endpoint_client import RefusedError
from lorapar.voting.vllm_teacher import require_equal_answers

_AGAIN_SECONDS = 2.0
_LOOK_SECONDS = 0.2
"""Between two looks at whether SIGTERM has come."""
_MOST_FORGOTTEN = 3
"""Times in a row that an adapter may be gone, as it is where several servers are behind one address."""
_PROBED_TOKENS = 64
"""Of a prompt, that the server's base is compared by."""
_WHAT = "the server of the completions"
T = TypeVar("T")


@contextmanager
def server_rollouts(job: TrainingJob, config: RlConfig) -> Iterator[ServerRollouts]:
    """The server of one run of training, tried with the adapter that it begins with.

    Raises BadInputError where it is not the server that this run needs, UnreachableError where there is none.
    """
    if config.server is None:
        raise AssertionError("rl.server is not set")
    require_equal_answers(job.model)
    slot = lora_slot(rank_in(job.adapter), "rl.rollouts")
    longest = config.max_prompt_length + config.max_completion_length
    command = server_command(job.model, slot, longest, sent=config.server.folder is None)
    with failing_together(_WHAT, (LoraparError,)):
        server = Server(config.server)
    ranks = Ranks.here()
    run = ranks.from_first(secrets.randbits(31))
    rollouts = ServerRollouts(server, config, job, f"lorapar-{run:08x}", command)
    with failing_together(_WHAT, (LoraparError,)):
        rollouts.meet(longest)
    try:
        yield rollouts
    except Exception:  # not SIGTERM, which leaves seconds
        rollouts.leave()
        raise
    rollouts.leave()


class ServerRollouts:
    """Completions of an adapter as it is at a step, with the log-probabilities they were sampled with."""

    def __init__(self, server: Server, config: RlConfig, job: TrainingJob, run: str, command: str) -> None:
        self._server, self._config, self._job, self._run = server, config, job, run
        self.bound = config.max_rollout_difference
        self._command = command
        self._base = ""
        self._compared = False
        self._left: list[str] = []
        """Adapters that the server has not forgotten yet."""
        shared = server.options.folder
        place = job.scratch / "rollouts" if shared is None else Path(shared).expanduser() / run
        self._folder = place / f"rank-{Ranks.here().rank}"

    def meet(self, longest: int) -> None:
        """Look at what is served and let it load the adapter that training begins with; the first process does it."""
        with self._configured():
            served = self._patiently(self._server.look)
            self._base = served.base
            if Ranks.here().first:
                self._require_room(served, longest)
                self._try(f"{self._run}-0")

    def complete(
        self,
        model: PeftModel,
        step: int,
        prompts: Sequence[Sequence[int]],
        stops: Sequence[int],
        strings: StopStrings | None = None,
        *,
        seed: int | None = None,
    ) -> Made:
        """See `lorapar.training.sampling.Rollouts`."""
        if not self._compared:
            self._compare(model, list(prompts[0])[:_PROBED_TOKENS])
        ranks, name = Ranks.here(), f"{self._run}-{step}"
        before, seed = ranks.rank * len(prompts), self._job.seed if seed is None else seed
        asked = [sampling_of(self._config, stops, strings, seed, step, before + place) for place in range(len(prompts))]
        bodies = [{**how, "prompt": list(prompt)} for how, prompt in zip(asked, prompts, strict=True)]
        folder = self._folder / name
        try:
            with self._together():
                save_adapter(model, folder)
                if ranks.first:
                    self._patiently(lambda: self._load(name, folder))
            with self._together():
                found = self._all(bodies, name, folder)
        except BaseException:
            self._left += [name] if ranks.first else []  # first the state is kept: this server may not even answer
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._forget(name)
        return [one.tokens for one in found], [one.log_probs for one in found]

    def leave(self) -> None:
        """Let the server forget what is left, as far as it does so quickly."""
        with suppress(LoraparError):  # one that is gone has forgotten them, too
            while self._left:
                with suppress(RefusedError):
                    self._server.unload(self._left.pop(), briefly=True)

    def _load(self, name: str, folder: Path) -> None:
        """Send an adapter, once those are forgotten that an earlier step has left."""
        while self._left:
            with suppress(RefusedError):  # a server that was started anew does not know it
                self._server.unload(self._left[0])
            del self._left[0]
        self._server.load(name, folder)

    def _forget(self, name: str) -> None:
        """Nothing of this step fails any more because of it: what does not work now is done before the next one."""
        if Ranks.here().first:
            try:
                self._server.unload(name, briefly=stop_requested())
            except LoraparError:
                self._left.append(name)

    def _all(self, bodies: Sequence[dict[str, Any]], name: str, folder: Path) -> list[Completion]:
        """Every completion; what a server that went away has not answered is asked again of the one that comes back."""
        found: dict[int, Completion] = {}
        patience, forgotten = self._patience(), 0
        while len(found) < len(bodies):
            so_far = len(found)
            missing = {place: body for place, body in enumerate(bodies) if place not in found}
            try:
                self._server.complete(name, missing, found)
            except NoRolloutsError:
                raise
            except UnreachableError as error:
                if len(found) > so_far:
                    patience, forgotten = self._patience(), 0
                if isinstance(error, RefusedError):
                    forgotten += 1
                    if error.failure.status != GONE or forgotten > _MOST_FORGOTTEN:
                        raise
                else:
                    patience.wait(error)
                self._patiently(lambda: self._load(name, folder), patience)
        return [found[place] for place in range(len(bodies))]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What goes wrong in one process does in all, so that all keep the state before this step."""
        with failing_together(_WHAT, (RolloutsLostError, RolloutsUnsentError)):
            try:
                yield
            except RolloutsLostError:
                raise
            except (StorageError, OSError) as error:
                raise RolloutsUnsentError(f"rl.server: the adapter cannot be sent: {error}") from error
            except LoraparError as error:  # of a key whose file is empty for a moment, too
                raise RolloutsLostError(f"rl.server: {error}") from error

    @contextmanager
    def _configured(self) -> Iterator[None]:
        """Before training: a server whose answers are of no use is a wrong setting, unlike one that gives none."""
        try:
            yield
        except RolloutsLostError:
            raise
        except RefusedError as error:
            meaning = _meaning(error, sent=self._server.options.folder is None)
            raise BadInputError(self._with_command(f"{error}{meaning}")) from None
        except NoRolloutsError as error:
            raise BadInputError(self._with_command(str(error))) from None
        except UnreachableError as error:
            raise UnreachableError(self._with_command(str(error))) from None
        except OSError as error:
            raise StorageError(f"rl.server: the adapter cannot be sent: {error}") from error

    def _patience(self) -> _Patience:
        return _Patience(self._server.options.wait_seconds, self._job.progress.log)

    def _patiently(self, work: Callable[[], T], patience: _Patience | None = None) -> T:
        """Do something with a server that may be started anew meanwhile; raises what it raises in the end."""
        patience = patience or self._patience()
        while True:
            try:
                return work()
            except (RefusedError, NoRolloutsError):
                raise
            except UnreachableError as error:
                patience.wait(error)

    def _require_room(self, served: Served, longest: int) -> None:
        if served.longest is not None and served.longest < longest:
            raise BadInputError(
                self._with_command(
                    f"{self._server.options.endpoint} takes {served.longest} tokens, and rl.max_prompt_length with "
                    f"rl.max_completion_length is {longest}"
                )
            )

    def _try(self, name: str) -> None:
        """Load the adapter that is there and unload it: what only that shows is a rank or a folder that does not do."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        copy_adapter(self._job.adapter, folder)
        try:
            self._patiently(lambda: self._server.load(name, folder))
            self._patiently(lambda: self._server.unload(name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._job.progress.log(f"completions come from {self._server.options.endpoint} ({self._base})")

    def _compare(self, model: PeftModel, prompt: list[int]) -> None:
        """Raise BadInputError where the server's base is another one, or its numbers are not the trainer's kind.

        Every process compares: a sharded base is computed by all.
        """
        self._compared = True
        if Ranks.here().any(len(prompt) < 2)[0]:
            return
        with failing_together(_WHAT, (LoraparError,)), self._configured():
            probe = self._patiently(lambda: self._server.probe(self._base, prompt))
        own = _base_log_probs(model, prompt)
        with failing_together(_WHAT, (LoraparError,)):
            self._require_same(own, probe)

    def _require_same(self, own: list[float], probe: Probe) -> None:
        difference = sum(abs(ours - its) for ours, its in zip(own, probe.log_probs, strict=True)) / len(own)
        if self.bound is not None and not difference <= self.bound:
            raise BadInputError(
                self._with_command(
                    f"{self._server.options.endpoint} serves another model than {self._job.model.name}: its base "
                    f"model '{self._base}' gives a prompt other probabilities, by {difference:.3g} nats a token "
                    f"(rl.max_rollout_difference is {self.bound:g})"
                )
            )
        if not probe.processed and (self._config.temperature, self._config.top_p) != (1.0, 1.0):
            raise BadInputError(
                self._with_command(
                    f"{self._server.options.endpoint} tells log-probabilities as they are before rl.temperature and "
                    "rl.top_p"
                )
            )

    def _with_command(self, what: str) -> str:
        return f"rl.server: {what}; it is to be started as: {self._command}"


@torch.no_grad()
def _base_log_probs(model: PeftModel, prompt: list[int]) -> list[float]:
    """Natural log-probabilities of each token of a prompt but the first, without the adapter."""
    ids = torch.tensor([prompt], device=model.device)
    with model.disable_adapter():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1].float()
    return [float(one) for one in logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]]


class _Patience:
    """How long a server that does not answer is tried again: from the moment that it was seen to be lost."""

    def __init__(self, seconds: float, log: Callable[[str], None]) -> None:
        self._seconds, self._log = seconds, log
        self._end: float | None = None

    def wait(self, error: UnreachableError) -> None:
        """Return when it may be tried again; raises the error once that was long enough. Logs the first time.

        Raises StoppedWaitingError as soon as SIGTERM has come.
        """
        if not stop_requested():
            self._pause(error)
        if stop_requested():
            raise StoppedWaitingError(f"rl.server: {error}") from error

    def _pause(self, error: UnreachableError) -> None:
        now = time.monotonic()
        if self._seconds < _LOOK_SECONDS:
            raise error
        if self._end is None:
            self._end = now + self._seconds
            self._log(f"rl.server: {error}; it is waited for, {self._seconds:g} s at most")
        elif now >= self._end:
            raise error
        again = min(now + _AGAIN_SECONDS, self._end)
        while not stop_requested() and (left := again - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))


def _meaning(error: RefusedError, *, sent: bool) -> str:
    """What a refusal to load mostly means."""
    if error.failure.status != GONE or "adapter" in error.failure.words.lower():
        return ""
    return ": it cannot be sent adapters over HTTP" if sent else ": it loads no adapters while it runs"
