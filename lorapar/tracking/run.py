"""A run in several trackers: each works in a thread of its own, in order, and none holds the run up.

A tracker that fails while the run goes on is left alone until its end. Then each is asked what it has of the curves,
and is sent what it lacks, a hundred points at once: steps that a slow server has not taken by then no longer wait for
an answer each.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

from lorapar.network import heed_proxies, network_cause, trust_authorities
from lorapar.redaction import redact
from lorapar.tracking.names import unique_names
from lorapar.tracking.services import ANSWER_SECONDS, TRACKERS, Summary, TrackedRun, Tracker, Work, require

LAST_SECONDS = 60.0
"""How long a run waits, at its end, for what is left to send."""

Log = Callable[[str], None]


class Tracking:
    """The trackers of one run; made by `tracked`."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers
        self._logged: dict[str, list[Mapping[str, Any]]] = {}

    @property
    def ids(self) -> dict[str, str]:
        """What the run goes by in each tracker that answered."""
        return {worker.name: worker.id for worker in self._workers if worker.id}

    def callbacks(self, stage: str) -> list[Any]:
        """transformers' own callbacks for a stage's trainer, which work beside it, and one that keeps its steps."""
        kept = self._logged[stage] = []
        return [_keeping(kept), *(_beside(worker, stage) for worker in self._workers)]

    def end(self, summary: Summary) -> None:
        """Send what is known at the end and what is missing, and wait for it no longer than LAST_SECONDS."""
        stages = dict.fromkeys((*self._logged, *summary.curves))
        curves = {stage: [*self._logged.get(stage, ()), *summary.curves.get(stage, ())] for stage in stages}
        for worker in self._workers:
            parts = [partial(worker.tracker.curve, stage, steps) for stage, steps in curves.items()]
            worker.finish(parts, summary)
        until = time.monotonic() + LAST_SECONDS
        for worker in self._workers:
            worker.wait(max(0.0, until - time.monotonic()))


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
    """One tracker's thread, in which everything is done in order."""

    def __init__(self, name: str, tracker: Tracker, log: Log) -> None:
        self.name, self.tracker, self.id = name, tracker, ""
        self._log = log
        self._failed = self._ended = self._left = self._finishing = False
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)

    def open(self) -> None:
        """Begin, and wait for the tracker's first answer."""
        opened = threading.Event()

        def begin() -> None:
            try:
                self._open()
            finally:
                opened.set()

        self._thread.start()
        self._work.put(begin)
        if not opened.wait(ANSWER_SECONDS):
            self._leave(f"did not answer within {ANSWER_SECONDS:g} s")

    def do(self, work: Work) -> None:
        """Do this after what was given before, unless something has failed."""
        if not self._failed:
            self._work.put(lambda: None if self._failed else work())

    def log(self, work: Work) -> None:
        """Do this as `do`; at the end of the run it is left to `curve`, which sends many steps at once."""
        self.do(lambda: None if self._finishing and self.tracker.catches_up else work())

    def finish(self, curves: Sequence[Work], summary: Summary) -> None:
        """Send what is missing and what is known at the end, also where something has failed."""

        def last() -> None:
            self._ended = True
            if self._failed:
                self._open()
            problems = [problem for work in (*curves, *self.tracker.end(summary)) if (problem := self._problem(work))]
            if problems:
                raise problems[0]
            if self._failed:
                self._log(f"{self.name} answers again, and has {self._had()}")

        self._finishing = True
        self._work.put(last)

    def _had(self) -> str:
        if self.tracker.catches_up:
            return "all that was missing"
        return "what is known at the end; steps that it missed may be lacking there, and are in the run's folder"

    def wait(self, seconds: float) -> None:
        """Wait for what is left to do."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._ended = True
            self._leave(f"did not take everything within {LAST_SECONDS:g} s")

    def _open(self) -> None:
        self.id = self.tracker.open()

    def _run(self) -> None:
        while not self._ended:
            if problem := self._problem(self._work.get()):
                self._leave(f"failed ({_reason(problem, self.tracker.address)})")

    def _problem(self, work: Work) -> BaseException | None:
        """What went wrong; a library of a tracker may exit as well as raise."""
        try:
            work()
        except BaseException as error:
            return error
        return None

    def _leave(self, why: str) -> None:
        """Say so, once while the run goes on and once at its end."""
        if not self._ended and not self._failed:
            sent = "what is missing there" if self.tracker.catches_up else "what is known then"
            self._log(f"{self.name} {why}; the run goes on, and {sent} is sent at its end")
        if self._ended and not self._left:
            self._left = True
            self._log(f"{self.name} {why}; the run ends without it, and all figures are in its folder")
        self._failed = True


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
            numbers, notes = tracker.numbers_and_notes(logs or {})
            prefix = f"{stage}/" if tracker.prefixed else ""
            then, named = copy(state), {prefix + name: one for name, one in numbers.items()}
            worker.log(lambda: call_event("on_log", args, then, control, logs=named))
            if notes:
                worker.log(lambda: tracker.note(stage, then.global_step, notes))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            then = copy(state)
            worker.do(lambda: call_event("on_train_end", args, then, control))

    return Beside()


def _keeping(steps: list[Mapping[str, Any]]) -> Any:
    """A callback of transformers that keeps what a trainer logs."""
    from transformers import TrainerCallback

    class Keeping(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            steps.append({**unique_names(logs or {}), "step": state.global_step})

    return Keeping()
