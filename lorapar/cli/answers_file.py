"""Where `ask` with `--file` writes: what a stopped command has answered is kept, and the same command goes on from it.

Answers are collected in a file beside the one that is asked for, whose name says what was asked of whom, and take its
place when all are there. What cannot be replaced, such as a pipe, is written to directly.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorapar.cli.documents import AskedDocument


class AnswersFile:
    """A file of answers that is written once they are all there, or one that is written to as it is."""

    def __init__(self, output: Path, asked: str, total: int) -> None:
        """`asked`: the digest of questions, options and models; `total`: how many answers there will be."""
        self.output, self.total, self.done = output, total, 0
        self._partial: Path | None = None
        if _can_be_replaced(output):
            target = output.resolve()
            self._partial = target.with_name(f"{target.name}.{asked[:12]}.partial")

    def write(self, answer_from: Callable[[int], Iterator[AskedDocument]], batch: int) -> None:
        """Write a line an answer, as each is there; `answer_from`: the answers from a place on.

        Only whole batches of an earlier command are kept: an answer may depend on those that are computed beside it.
        """
        place = self._partial or self.output
        lines = _whole_lines(self._partial)[: self.total] if self._partial is not None else []
        self.done = len(lines) if len(lines) == self.total else len(lines) // batch * batch
        with place.open("wb") as opened:
            opened.writelines(lines[: self.done])
            opened.flush()
            for one in answer_from(self.done):
                opened.write(one.model_dump_json().encode() + b"\n")
                opened.flush()
                self.done += 1
        if self._partial is not None:
            self._take_place(self._partial)

    def _take_place(self, made: Path) -> None:
        target = self.output.resolve()
        if target.exists():
            shutil.copymode(target, made)
        made.replace(target)

    def kept(self) -> str:
        """What a stop leaves, and how to go on."""
        answers = f"{self.done} of {self.total} answers"
        if self._partial is None:
            return f"{answers} are in {self.output}; the same command begins again"
        if not self._partial.exists():
            return f"nothing was written to {self.output}"
        return (
            f"{answers} are kept in {self._partial}, run the same command again to continue; {self.output} is written "
            "when all are there"
        )


def _can_be_replaced(output: Path) -> bool:
    """Whether another file can take its place: not that of a device, to which the shell may have led a file."""
    if str(output.absolute()).startswith(("/dev/", "/proc/")) or (output.exists() and not output.is_file()):
        return False
    return os.access(output.resolve().parent, os.W_OK | os.X_OK)


def _whole_lines(file: Path) -> list[bytes]:
    """The answers that an earlier command has finished; its last line may be half of one."""
    if not file.is_file():
        return []
    lines = []
    for line in file.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_answer(line):
            break
        lines.append(line)
    return lines


def _is_answer(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
