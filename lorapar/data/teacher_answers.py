"""A teacher's answers to requests without one, saved as they come: a killed stage asks only for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from lorapar.config.capture import CaptureSource
from lorapar.data.captured import Conversation, answer_key
from lorapar.progress import Progress
from lorapar.records import recover_lines
from lorapar.store.file_system import sync
from lorapar.voting.endpoint_text import TextTeacher

_FLUSH_ANSWERS = 32
JOURNAL = "teacher_answers.jsonl"


class TeacherAnswers:
    """Asks the teacher of `data.capture` (a `lorapar.data.captured.AskTeacher`); keeps what it said in `folder`."""

    def __init__(
        self,
        wanted: CaptureSource,
        folder: Path,
        progress: Progress,
        on_flush: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._wanted, self._path, self._progress, self._on_flush = wanted, folder / JOURNAL, progress, on_flush
        self._environment = environment

    def __call__(self, asked: Mapping[str, Conversation]) -> dict[str, str]:
        """Answers by request id; raises like `TextTeacher`, keeping earlier answers for the next call."""
        keys = {name: answer_key(self._wanted, conversation) for name, conversation in asked.items()}
        known = dict(recover_lines(self._path, _pair))
        rest = {name: asked[name] for name, key in keys.items() if key not in known}
        if known:
            self._progress.log(f"{len(asked) - len(rest):,} answers of the teacher from an earlier call were kept")
        if rest:
            known |= self._asked_now(rest, keys)
        found = {name: known.get(key) for name, key in keys.items()}
        return {name: answer for name, answer in found.items() if answer}

    def _asked_now(self, rest: Mapping[str, Conversation], keys: Mapping[str, str]) -> dict[str, str | None]:
        if self._wanted.teacher is None:
            return {}
        teacher = TextTeacher(self._wanted.teacher, self._progress.log, "data.capture.teacher", self._environment)
        self._progress.start("the teacher answers", len(rest))
        found: dict[str, str | None] = {}
        with self._path.open("ab") as file:
            try:
                for number, (name, answer) in enumerate(teacher.answers(rest), 1):
                    found[keys[name]] = answer
                    file.write(json.dumps([keys[name], answer]).encode() + b"\n")
                    self._progress.advance(1)
                    if number % _FLUSH_ANSWERS == 0:
                        sync(file)
                        self._on_flush()
            finally:
                sync(file)
                self._on_flush()
        return found


def _pair(line: bytes) -> tuple[str, str | None]:
    key, answer = json.loads(line)
    if not isinstance(key, str) or not isinstance(answer, str | None):
        raise ValueError("not an answer")
    return key, answer
