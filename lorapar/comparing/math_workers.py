"""math-verify in separate processes, with a time limit on each comparison: outside a main thread it cannot keep one.

A worker reads pairs and writes verdicts, one JSON value a line (`lorapar.comparing.math_worker`). One that takes too
long or dies is replaced, and the comparison counts as not equal. What decides is CPU time, so that a busy machine gives
the same verdicts as an idle one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Self

from lorapar.comparing.latex import MathTexts

CPU_SECONDS = 5.0
"""CPU time of one comparison; the worker's own timer ends it then."""
WALL_SECONDS = 60.0
"""Time until a worker that uses no CPU time is given up."""
START_SECONDS = 300.0
"""Time that a worker has to import sympy, on a machine that is very busy."""
MEMORY_BYTES = 2 << 30
WORKERS = min(4, os.cpu_count() or 1)
_SHOWN_CHARACTERS = 60
# Isolated mode forgets PYTHONPATH, so that the worker is told where this process imports from.
_START = "import sys; sys.path[:] = sys.argv[3:]; from lorapar.comparing.math_worker import main; main()"


class MathWorkers:
    """Workers that are started when they are first needed; a context manager that ends them."""

    def __init__(
        self, workers: int = WORKERS, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS
    ) -> None:
        self._limits = (cpu_seconds, wall_seconds)
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        self._all = [_Worker(cpu_seconds, wall_seconds) for _ in range(workers)]
        for worker in self._all:
            self._free.put(worker)
        self._known: dict[MathTexts, bool] = {}
        self._lock = Lock()
        self.asked = 0
        """Comparisons so far, each different one once."""
        self.undecided = 0
        """How many of them came to no verdict."""
        self.first_undecided = ""
        """The first of them, in words."""

    def equal(self, pairs: Sequence[MathTexts]) -> list[bool]:
        """Whether the two expressions of each pair have the same value; False where there is no verdict."""
        new = [texts for texts in dict.fromkeys(pairs) if texts not in self._known]
        if len(new) == 1:
            self._known[new[0]] = self._compare(new[0])
        elif new:
            with ThreadPoolExecutor(len(self._all)) as pool:
                self._known.update(zip(new, pool.map(self._compare, new), strict=True))
        return [self._known[texts] for texts in pairs]

    def _compare(self, texts: MathTexts) -> bool:
        worker = self._free.get()
        try:
            verdict = worker.compare(texts)
        finally:
            self._free.put(worker)
        with self._lock:
            self.asked += 1
            if verdict is None:
                self.undecided += 1
                shown = f"'{texts.answer[:_SHOWN_CHARACTERS]}' and '{texts.reference[:_SHOWN_CHARACTERS]}'"
                self.first_undecided = self.first_undecided or shown
        return bool(verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._all:
            worker.end()


class _Worker:
    """One process, started with the first comparison and again after each that ended it."""

    def __init__(self, cpu_seconds: float, wall_seconds: float) -> None:
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, texts: MathTexts) -> bool | None:
        """The verdict; None where the process died over it or did not answer in time."""
        process = self._process if self._process is not None and self._process.poll() is None else self._started()
        line = json.dumps([texts.answer, texts.reference]).encode() + b"\n"
        try:
            process.stdin.write(line)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            reply = _line(process, self._wall_seconds)
        except OSError:
            reply = None
        if reply is None:
            self.end()
            return None
        verdict = json.loads(reply)
        return verdict if isinstance(verdict, bool) else None

    def end(self) -> None:
        """Kill the process, where there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()  # type: ignore[union-attr]
                except OSError:
                    continue

    def _started(self) -> subprocess.Popen[bytes]:
        self.end()
        limits = [str(self._cpu_seconds), str(MEMORY_BYTES)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, *limits, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
            bufsize=0,
        )
        if _line(self._process, START_SECONDS) is None:
            self.end()
            raise RuntimeError("the process that compares answers with math-verify does not start")
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """One line of what a process writes; None where it ends before, or the time is over."""
    deadline, line = time.monotonic() + seconds, b""
    output = process.stdout
    if output is None:
        raise AssertionError("the process has no pipe")
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([output], [], [], left)[0]:
            return None
        block = os.read(output.fileno(), 1 << 16)
        if not block:
            return None
        line += block
    return line
