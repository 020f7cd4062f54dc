"""The stage's side of the sandbox: starts the warden, refuses what this platform cannot guarantee, hands out jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self

from lorapar.errors import BadInputError
from lorapar.evaluation.sandbox.attempts import managed, outside_file, program
from lorapar.evaluation.sandbox.limits import Limits, Outcome
from lorapar.evaluation.sandbox.tested import CodeUnderTest

Policy = Literal["strict", "best_effort"]
# Isolated mode forgets PYTHONPATH, so that the warden is told where this process imports from.
_START = "import sys; sys.path[:] = sys.argv[2:]; from lorapar.evaluation.sandbox.warden import main; main()"
_ADVICE = (
    "run it where the kernel has Landlock (Linux 5.13 or newer) and libseccomp is installed, or accept the risk with "
    "execute.sandbox=best_effort"
)


class _Startable(ABC):
    """A context manager; what `_start` puts on the stack is closed on leaving, and also where starting fails."""

    _stack: ExitStack

    @abstractmethod
    def _start(self) -> None:
        """Start all parts."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Sandbox(_Startable):
    """A warden process; `run` gives it one program at a time. Use as a context manager.

    Raises BadInputError on entering, where policy is `strict` and a program managed something that it must not.
    """

    def __init__(self, limits: Limits, policy: Policy = "strict") -> None:
        self._limits, self._policy = limits, policy
        self.layers: list[str] = []
        """The layers that are in force, by name."""
        self.gaps: list[str] = []
        """What generated code can do here although it should not; empty under `strict`."""

    def run(self, source: str | CodeUnderTest) -> Outcome:
        """Run a program (UTF-8 Python source), or an answer against its tests, under the limits."""
        job = asdict(source) if isinstance(source, CodeUnderTest) else {"source": source}
        return Outcome(**self._ask({**job, "limits": asdict(self._limits)}))

    def _start(self) -> None:
        self._place = place = self._make_place()
        # Scratch folders inside are each program's own; under another user id they must be reachable.
        os.chmod(place, 0o711)  # noqa: S103
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(place), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Only what finding libseccomp needs: what the parent of generated code does not know, it cannot tell.
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            encoding="utf-8",
            start_new_session=True,
        )
        self._stack.callback(self._stop)
        self.layers = self._answer()["layers"]
        self.gaps = self._try_everything(place)
        if self.gaps and self._policy == "strict":
            raise BadInputError(
                f"generated code is not run here, because in this sandbox it could {', '.join(self.gaps)} "
                f"(layers in force: {', '.join(self.layers)}); {_ADVICE}"
            )

    def _make_place(self) -> Path:
        try:
            folder = tempfile.TemporaryDirectory(prefix="lorapar-sandbox-", ignore_cleanup_errors=True)
        except OSError:
            raise BadInputError(
                "generated code needs a writable temporary folder and there is none; set TMPDIR, in a container with a "
                "read-only root to a volume"
            ) from None
        return Path(self._stack.enter_context(folder))

    def _try_everything(self, place: Path) -> list[str]:
        source = program(outside_file(place), self._warden.pid, self._limits.memory_bytes)
        # The attempts end by an exception that carries what they found, which comes back as the detail.
        outcome = self.run(source + "\nraise SystemExit(json.dumps(managed))")
        try:
            return managed(outcome.detail)
        except ValueError:
            raise BadInputError(
                f"generated code cannot be run here: a first test program ended with {outcome.status} "
                f"({outcome.detail}); see docs/sandbox.md"
            ) from None

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._warden.stdin is not None  # noqa: S101
        try:
            self._warden.stdin.write(json.dumps(job) + "\n")
            self._warden.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._warden.stdout is not None  # noqa: S101
        assert self._warden.stderr is not None  # noqa: S101
        line = self._warden.stdout.readline()
        if not line:
            raise RuntimeError(f"the sandbox's warden process has ended: {self._warden.stderr.read().strip()[-500:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stop(self) -> None:
        """Its input ends, so it ends; if not at once, it is killed, and its program dies with it."""
        assert self._warden.stdin is not None  # noqa: S101
        for pipe in (self._warden.stdin, self._warden.stdout, self._warden.stderr):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                continue
        self._warden.kill()
        self._warden.wait()


class SandboxPool(_Startable):
    """Several sandboxes, for programs side by side. Use as a context manager."""

    def __init__(self, limits: Limits, policy: Policy, workers: int) -> None:
        self._sandboxes = [Sandbox(limits, policy) for _ in range(workers)]

    def _start(self) -> None:
        self._free: SimpleQueue[Sandbox] = SimpleQueue()
        for sandbox in self._sandboxes:
            self._free.put(self._stack.enter_context(sandbox))

    @property
    def layers(self) -> list[str]:
        """The layers that are in force, by name."""
        return self._sandboxes[0].layers

    @property
    def gaps(self) -> list[str]:
        """What generated code can do here although it should not."""
        return self._sandboxes[0].gaps

    def outcomes(self, sources: Iterable[str | CodeUnderTest]) -> Iterator[tuple[int, Outcome]]:
        """(place among the sources, outcome) of each program, as they come."""
        pool = ThreadPoolExecutor(len(self._sandboxes))
        try:
            places = {pool.submit(self._run, source): place for place, source in enumerate(sources)}
            for done in as_completed(places):
                yield places[done], done.result()
        finally:
            # What runs now ends with its sandbox; stopping in the middle does not wait for the rest.
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, source: str | CodeUnderTest) -> Outcome:
        sandbox = self._free.get()
        try:
            return sandbox.run(source)
        finally:
            self._free.put(sandbox)
