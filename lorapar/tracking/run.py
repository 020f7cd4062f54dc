"""A run in several trackers: each works in a thread of its own, in order, and none holds the run up."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

from lorapar.network import heed_proxies, network_cause, trust_authorities
from lorapar.redaction import redact
from lorapar.tracking.names import of_a_step
from lorapar.tracking.services import ANSWER_SECONDS, TRACKERS, Summary, TrackedRun, Tracker, require

LAST_SECONDS = 60.0
"""How long a run waits, at its end, for what is left to send."""

Log = Callable[[str], None]


class Tracking:
    """The trackers of one run; made by `tracked`."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers
        self._trained: set[str] = set()

    @property
    def ids(self) -> dict[str, str]:
        """What the run goes by in each tracker that answered."""
        return {worker.name: worker.id for worker in self._workers if worker.id}

    def callbacks(self, stage: str) -> list[Any]:
        """transformers' own callbacks for a stage's trainer, which work beside it."""
        self._trained.add(stage)
        return [_beside(worker, stage) for worker in self._workers if worker.alive]

    def end(self, summary: Summary) -> None:
        """Send what is known at the end, and wait for it no longer than LAST_SECONDS."""
        reused = {stage: steps for stage, steps in summary.curves.items() if stage not in self._trained}
        for worker in self._workers:
            for stage, steps in reused.items():
                worker.do(partial(worker.tracker.curve, stage, steps))
            worker.do(partial(worker.tracker.end, summary))
        until = time.monotonic() + LAST_SECONDS
        for worker in self._workers:
            worker.finish(max(0.0, until - time.monotonic()))


@contextmanager
def tracked(
    names: Sequence[str], run: TrackedRun, log: Log, summary: Callable[[bool], Summary]
) -> Iterator[Tracking | None]:
    """Open a run in trackers; at the end of the block they get what `summary(whether it ended well)` says.

    Raises BadInputError where a package or the address of a server is missing, or a proxy cannot be used. None without
    trackers.
    """
    if not names:
        yield None
        return
    for name in names:
        require(name)
    workers = [_Worker(name, TRACKERS[name](run), log) for name in names]
    for address in filter(None, (worker.tracker.address for worker in workers)):
        trust_authorities()
        heed_proxies(address, socks="socks")
    for worker in workers:
        worker.open()
    tracking, finished = Tracking(workers), False
    try:
        yield tracking
        finished = True
    finally:
        try:
            result = summary(finished)
        except Exception:  # the run's own failure matters more
            result = Summary(finished)
        tracking.end(result)


class _Worker:
    """One tracker's thread; what it is given is done in order, until something fails."""

    def __init__(self, name: str, tracker: Tracker, log: Log) -> None:
        self.name, self.tracker, self.id = name, tracker, ""
        self.alive = True
        self._log = log
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)

    def open(self) -> None:
        """Begin, and wait for the tracker's first answer."""
        opened = threading.Event()

        def begin() -> None:
            try:
                self.id = self.tracker.open()
            finally:
                opened.set()

        self._thread.start()
        self._work.put(begin)
        if not opened.wait(ANSWER_SECONDS):
            self._leave(f"did not answer within {ANSWER_SECONDS:g} s")

    def do(self, work: Callable[[], None]) -> None:
        """Do this after what was given before."""
        if self.alive:
            self._work.put(work)

    def finish(self, seconds: float) -> None:
        """Wait for what is left to do."""
        self._work.put(None)
        if not self.alive:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._leave(f"did not take everything within {LAST_SECONDS:g} s")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if not self.alive:
                continue
            try:
                work()
            except BaseException as error:  # a library of a tracker may exit as well as raise
                self._leave(f"failed ({_reason(error, self.tracker.address)})")

    def _leave(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._log(f"{self.name} {why}; the run goes on without it, and all figures are in its folder")


def _reason(error: BaseException, address: str | None) -> str:
    """A certificate or a proxy by its own name; a library's words begin with the address, and the cause is cut off."""
    if address and (cause := network_cause(error, address)):
        return redact(cause)
    message = redact(" ".join(str(error).split()))[:200]
    return type(error).__name__ + (f": {message}" if message else "")


def _beside(worker: _Worker, stage: str) -> Any:
    """A callback of transformers that hands what happens to the tracker's own, in the tracker's thread."""
    from transformers import TrainerCallback

    tracker = worker.tracker
    made: list[Any] = []

    def call_event(event: str, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not made:
            made.append(tracker.callback(stage))
        getattr(made[0], event)(args, state, control, **more)

    class Beside(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            then = copy(state)
            worker.do(lambda: call_event("on_train_begin", args, then, control, model=model))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            finite, others = of_a_step(logs or {})
            prefix = f"{stage}/" if tracker.prefixed else ""
            then = copy(state)
            worker.do(
                lambda: call_event(
                    "on_log", args, then, control, logs={prefix + name: one for name, one in finite.items()}
                )
            )
            if others:
                worker.do(lambda: tracker.note(stage, then.global_step, others))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            then = copy(state)
            worker.do(lambda: call_event("on_train_end", args, then, control))

    return Beside()
