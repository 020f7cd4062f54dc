"""Runs of the `lorapar` command whose imports are already done: one process imports, and every run is a fork of it.

A tiny run is four fifths imports. What is killed here is still a process of its own, with files, sockets and threads
of its own; only its modules are those of its parent. Before a fork the parent has no thread and no connection.

As a program it reads one JSON object a line, `{"run": [arguments], "output": path, "errors": path, "folder": path,
"environment": {...}}` or `{"wait": pid}`, and answers with one: `{"pid": ...}` or `{"code": ...}`, where a process that
was killed has minus the signal's number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_READ_LATE = ("LORAPAR_", "AWS_", "PYTEST_")
"""Variables that nothing reads while it is imported begin so."""
_NAMES_READ_LATE = {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}


class WarmCommand:
    """The parent, as a test uses it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it with these variables on top of this process's, and wait until it has imported everything."""
        self.environment = {**os.environ, **environment}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        assert self._answer() == {"ready": True}

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process of its own would import the same with these variables, all that it has."""
        changed = {name for name, _ in self.environment.items() ^ dict(environment).items()}
        return all(name.startswith(_READ_LATE) or name in _NAMES_READ_LATE for name in changed)

    def start(self, *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> Run:
        """Start `lorapar` with these arguments and further variables; all it says is added to the file `log`."""
        pid = self.fork(arguments, log, log, {**self.environment, **(environment or {})})
        return Run(self, pid, log)

    def fork(self, arguments: Sequence[str | Path], output: Path, errors: Path, environment: Mapping[str, str]) -> int:
        """Start `lorapar` in this process's folder with these variables alone; the number of the process."""
        message = {
            "run": [str(argument) for argument in arguments],
            "output": str(output),
            "errors": str(errors),
            "folder": str(Path.cwd()),
            "environment": dict(environment),
        }
        return int(self._ask(message)["pid"])

    def run(self, arguments: Sequence[str | Path], timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does it with `capture_output`, in this process's folder and with its variables."""
        with tempfile.TemporaryDirectory() as made:
            output, errors = Path(made) / "output", Path(made) / "errors"
            pid = self.fork(arguments, output, errors, os.environ)
            until = time.monotonic() + timeout_seconds
            while not _ended(pid):
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                    self.wait(pid)
                    raise subprocess.TimeoutExpired(["lorapar", *map(str, arguments)], timeout_seconds)
                time.sleep(0.01)
            code = self.wait(pid)
            texts = [path.read_text(encoding="utf-8") for path in (output, errors)]
        return subprocess.CompletedProcess(["lorapar", *map(str, arguments)], code, *texts)

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
        with self._lock:
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

    def send(self, number: int) -> None:
        """Send a signal; the run may have ended."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Whether it has ended; its exit code is still there for `wait`."""
        return _ended(self.pid)

    def wait(self) -> int:
        """The exit code; a negative number is the signal that ended it."""
        return self._command.wait(self.pid)


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def _import_everything() -> None:
    """Import what any run does, read its code and compile its page; a fork has it all, and its collector skips it."""
    import gc

    import datasets
    import peft
    import torch
    import trl
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import lorapar.cli.base
    import lorapar.local.runner
    import lorapar.report.metrics
    import lorapar.store.s3
    import lorapar.training.rl
    import lorapar.training.sft
    from lorapar.own_code import code_digest
    from lorapar.report.page import FOLDER, environment
    from lorapar.stages.contract import STAGE_NAMES

    get_checkpoint_conversion_mapping("llama")  # it compiles a thousand patterns the first time
    assert all((datasets, peft, torch, trl, lorapar))
    for stage in STAGE_NAMES:
        code_digest(f"lorapar.stages.{stage}")
    for template in FOLDER.glob("*.html"):
        environment().get_template(template.name)
    gc.collect()
    gc.freeze()  # or every stage's collection would look through a million objects: half a second


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
        assert _threads() <= {"jemalloc_bg_thd"}, f"a fork would lose threads: {_threads()}"
        pid = os.fork()
        if pid == 0:
            answers.close()
            _write_into(question["output"], question["errors"])
            os.chdir(question["folder"])
            sys.path.insert(0, question["folder"])
            os.environ.clear()
            os.environ.update(question["environment"])
            return [str(argument) for argument in question["run"]]
        answer(pid=pid)
    return None


def _threads() -> set[str]:
    """Names of this process's other threads; the one by which pyarrow's jemalloc gives memory back may be lost."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    return {(task / "comm").read_text().strip() for task in tasks}


def _write_into(output: str, errors: str) -> None:
    """Lead this process's output and errors into these files, and give it nothing to read."""
    modes = {0: os.O_RDONLY, 1: os.O_WRONLY | os.O_CREAT | os.O_APPEND, 2: os.O_WRONLY | os.O_CREAT | os.O_APPEND}
    for target, path in enumerate((os.devnull, output, errors)):
        descriptor = os.open(path, modes[target])
        os.dup2(descriptor, target)
        os.close(descriptor)


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
