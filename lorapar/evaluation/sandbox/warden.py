"""The warden: a small process without secrets that runs one generated program after the other and watches over each.

It reads jobs and writes outcomes, both as one JSON object a line: {"source", "limits"} in, {"status", "detail",
"seconds"} out. A job with `tests` runs its source and the tests in two processes (`tested`). Its first line says which
layers this machine allows. It is started with an empty environment, so what a program's parent knows is nothing. A
program is its child: forked, confined (`confine`), then replaced by a bare interpreter (no site, no environment) that
runs PROGRAM. That it ran to the end is told by a random word that it is given and hands back; an exit code would be 0
as well after `sys.exit()` in the middle.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorapar.evaluation.sandbox.confine import Layers, confine, interpreter, prctl
from lorapar.evaluation.sandbox.find_layers import find_layers
from lorapar.evaluation.sandbox.limits import Limits, Outcome, Status
from lorapar.evaluation.sandbox.tested import ANSWER_FILE, ANSWER_PROGRAM, TESTS_FILE, TESTS_PROGRAM

PROGRAM = """\
import os
word = os.read(0, 64)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
with open("program.py", encoding="utf-8") as file:
    source = file.read()
exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
os.write(3, word)
"""
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_GLANCE_SECONDS = 0.05
_BLOCK_BYTES = 4096
_DETAIL_CHARACTERS = 500


def main() -> None:
    """Serve jobs until the input ends; argument: the folder that scratch folders are made in."""
    place = Path(sys.argv[1])
    # Nobody of this user id may look into this process or trace it; strays are handed to it, to be ended.
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    layers = find_layers()
    _print_json({"layers": layers.words()})
    for line in sys.stdin:
        job = json.loads(line)
        _print_json(asdict(run(job["source"], Limits(**job["limits"]), layers, place, job.get("tests"))))


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def run(source: str, limits: Limits, layers: Layers, place: Path, tests: str | None = None) -> Outcome:
    """Run one program, or one and its tests, in scratch folders of their own, which are gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="program-", dir=place))
    try:
        if tests is None:
            _write(scratch / "program.py", source, layers)
            return Watch(scratch, limits, layers).run()
        os.chmod(scratch, 0o711)  # noqa: S103 - the two folders in it are each program's own
        for folder, name, text in (("answer", ANSWER_FILE, source), ("tests", TESTS_FILE, tests)):
            (scratch / folder).mkdir(mode=0o700)
            _write(scratch / folder / name, text, layers)
        return TestedWatch(scratch, limits, layers).run()
    finally:
        end_children()
        remove(scratch)


def _write(path: Path, source: str, layers: Layers) -> None:
    path.write_text(source, encoding="utf-8", errors="replace")
    if layers.run_as is not None:
        for one in (path.parent, path):
            os.chown(one, layers.run_as, layers.run_as)


class Watch:
    """One program's run: its pipes, its limits, its end."""

    def __init__(self, scratch: Path, limits: Limits, layers: Layers) -> None:
        self._scratch, self._limits, self._layers = scratch, limits, layers
        self._secret = secrets.token_hex(16).encode()
        self._output, self._signal = bytearray(), bytearray()

    def run(self) -> Outcome:
        """Start it, watch it, end it."""
        started = time.monotonic()
        inward, outward, verdict = os.pipe(), os.pipe(), os.pipe()
        child = self._start(inward[0], outward[1], verdict[1])
        for end in (inward[0], outward[1], verdict[1]):
            os.close(end)
        os.write(inward[1], self._secret)
        os.close(inward[1])
        try:
            broken = self._watch(child, (outward[0], verdict[0]), started + self._limits.wall_seconds)
            status, detail = self._end(child, broken)
        finally:
            os.close(outward[0])
            os.close(verdict[0])
        return Outcome(status, detail, round(time.monotonic() - started, 3))

    def _start(self, inward: int, outward: int, verdict: int) -> int:
        """The process that may hand back the word; it gets these ends of pipes."""
        return self._forked((inward, outward, outward, verdict), self._scratch, PROGRAM)

    def _forked(self, ends: tuple[int, ...], folder: Path, program: str) -> int:
        """A confined child in a folder, with these as its files 0, 1, 2 and so on."""
        child = os.fork()
        if child == 0:
            self._become_program(ends, folder, program)
        return child

    def _become_program(self, given: tuple[int, ...], folder: Path, program: str) -> None:
        """In the child: confine, then start the interpreter. Comes back never; a step that fails ends the child."""
        try:
            os.setsid()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            # High numbers first, so that none of them is overwritten before it is copied.
            ends = [os.dup2(end, 100 + n, inheritable=True) for n, end in enumerate(given)]
            for number, end in enumerate(ends):
                os.dup2(end, number, inheritable=True)
            os.closerange(len(ends), 1 << 16)
            os.chdir(folder)
            confine(self._limits, folder, self._layers, _own_processes())
            python = str(interpreter())
            environment = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": "", "LANG": "C.UTF-8"}
            os.execve(python, [python, "-I", "-S", "-B", "-X", "utf8", "-c", program], environment)  # noqa: S606
        except BaseException as error:
            with suppress(OSError):
                os.write(2, f"sandbox: {error}".encode())
        os._exit(111)

    def _watch(self, child: int, ends: tuple[int, int], deadline: float) -> tuple[Status, str] | None:
        """Read until both pipes are closed; says which limit was passed, None where none was."""
        open_ends = dict(zip(ends, (self._output, self._signal), strict=True))
        while open_ends:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timed_out", f"still running after {self._limits.wall_seconds:g} s"
            for end in select.select([*open_ends, 0], [], [], min(left, _GLANCE_SECONDS))[0]:
                if end == 0:
                    _leave()
                data = os.read(end, 1 << 16)
                open_ends[end] += data
                if not data:
                    del open_ends[end]
            if len(self._output) > self._limits.output_bytes:
                return "too_much_output", f"printed more than {self._limits.output_bytes} bytes"
            if len(self._signal) > len(self._secret):
                return "died", "wrote to the pipe that reports its verdict"
            if folder_bytes(self._scratch, self._limits.scratch_bytes) > self._limits.scratch_bytes:
                return "too_much_disk", f"wrote more than {self._limits.scratch_bytes} bytes"
        return self._wait_for_end(child, deadline)

    def _wait_for_end(self, child: int, deadline: float) -> tuple[Status, str] | None:
        """It closed its pipes; give it until the deadline to be gone."""
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return "timed_out", f"still running after {self._limits.wall_seconds:g} s"
            if select.select([0], [], [], 0.002)[0]:
                _leave()
        return None

    def _end(self, child: int, broken: tuple[Status, str] | None) -> tuple[Status, str]:
        """Kill it where it still runs, and judge."""
        if broken is not None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if broken is not None:
            return broken
        if code == 0 and bytes(self._signal) == self._secret:
            return "passed", ""
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timed_out", f"used {self._limits.cpu_seconds} s of CPU time"
        if code < 0:
            return "died", f"ended by {signal.Signals(-code).name}"
        return ("died" if code == 111 else "failed"), self._last_line() or f"ended with exit code {code} half-way"

    def _last_line(self) -> str:
        lines = bytes(self._output).decode("utf-8", "replace").strip().splitlines()
        text = "".join(letter if letter.isprintable() else "?" for letter in lines[-1]) if lines else ""
        return text[:_DETAIL_CHARACTERS]


class TestedWatch(Watch):
    """A run of an answer and its tests: what is watched are the tests, which alone have the word."""

    def _start(self, inward: int, outward: int, verdict: int) -> int:
        calls, replies = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_WRONLY)
        self._forked((calls[0], nothing, nothing, replies[1]), self._scratch / "answer", ANSWER_PROGRAM)
        tests = (inward, outward, outward, verdict, calls[1], replies[0])
        child = self._forked(tests, self._scratch / "tests", TESTS_PROGRAM)
        for end in (*calls, *replies, nothing):
            os.close(end)
        return child


def _leave() -> None:
    """The stage is gone: no job is sent while one runs, so its pipe can only have been closed. Leave nothing behind."""
    end_children()
    os._exit(0)


def end_children() -> None:
    """Kill and reap every child there is, and theirs: as their reaper this process gets those that lost a parent."""
    while True:
        with suppress(OSError):
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def folder_bytes(folder: Path, most: int) -> int:
    """Bytes of everything below a folder, every file and folder at least a block; what goes meanwhile counts nothing.

    Counting ends above `most`. Folders are kept on a list, because a program can nest them deeper than Python recurses;
    deeper than a path can be long counts as too much.
    """
    total, folders = 0, [str(folder)]
    while folders and total <= most:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += max(_BLOCK_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return most + 1
    return total


def remove(folder: Path) -> None:
    """Remove a folder however deeply it is nested: `rm` does not recurse by path, as Python may have to."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)


def _own_processes() -> int:
    """How many threads of this user id there are now: the limit on processes counts them all."""
    count = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count
