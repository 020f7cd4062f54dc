"""Runs of the `lorapar` command whose imports are already done: one process imports, and every run is a fork of it.

A tiny run is four fifths imports. What is killed here is still a process of its own, with files, sockets and threads
of its own; only its modules are those of its parent. Before a fork the parent has no thread and no connection.

As a program it reads one JSON object a line, `{"run": [arguments], "log": path, "environment": {...}}` or
`{"wait": pid}`, and answers with one: `{"pid": ...}` or `{"code": ...}`, where a process that was killed has minus the
signal's number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class WarmCommand:
    """The parent, as a test uses it."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it with these variables on top of this process's, and wait until it has imported everything."""
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread, **environment},
        )
        assert self._answer() == {"ready": True}

    def start(self, *arguments: str | Path, log: Path, environment: dict[str, str] | None = None) -> Run:
        """Start `lorapar` with these arguments and further variables; all it says is added to the file `log`."""
        message = {"run": [str(argument) for argument in arguments], "log": str(log), "environment": environment or {}}
        answer = self._ask(message)
        return Run(self, int(answer["pid"]), log)

    def wait(self, pid: int) -> int:
        """The exit code of a run; a negative number is the signal that ended it."""
        return int(self._ask({"wait": pid})["code"])

    def close(self) -> None:
        """End the parent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class Run:
    """One run of the command."""

    def __init__(self, command: WarmCommand, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._command = command

    def send(self, signal: int) -> None:
        """Send a signal; the run may have ended."""
        os.kill(self.pid, signal)

    def ended(self) -> bool:
        """Whether it has ended; its exit code is still there for `wait`."""
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"

    def wait(self) -> int:
        """The exit code; a negative number is the signal that ended it."""
        return self._command.wait(self.pid)


def _import_everything() -> None:
    import datasets
    import peft
    import torch
    import trl

    import lorapar.cli
    import lorapar.local.runner
    import lorapar.report.metrics
    import lorapar.store.s3
    import lorapar.training.rl
    import lorapar.training.sft
    from lorapar.stages.code import code_digest
    from lorapar.stages.contract import STAGE_NAMES

    assert torch.get_num_threads() == 1
    assert all((datasets, peft, trl, lorapar))
    for stage in STAGE_NAMES:
        code_digest(f"lorapar.stages.{stage}")


def _serve() -> list[str] | None:
    """Answer questions until there are no more; in a child: the arguments it is to run with."""
    answers = os.fdopen(os.dup(1), "w")

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    answer(ready=True)
    while line := sys.stdin.readline():
        question = json.loads(line)
        if "wait" in question:
            answer(code=os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            answers.close()
            _speak_into(question["log"])
            os.environ.update(question["environment"])
            return [str(argument) for argument in question["run"]]
        answer(pid=pid)
    return None


def _speak_into(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, descriptor), (2, descriptor)):
        os.dup2(source, target)


def main() -> None:
    """Serve; a child becomes the command."""
    _import_everything()
    arguments = _serve()
    if arguments is not None:
        sys.argv = ["lorapar", *arguments]
        from lorapar.__main__ import main as command

        command()


if __name__ == "__main__":
    main()
