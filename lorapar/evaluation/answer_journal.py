"""Answers kept as they come, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorapar.records import Answer, Record, System, recover_lines


class AnsweredBatch(Record):
    """One model's answers to some rows."""

    model: str
    seconds: float
    """Time that generating them took, when they were asked."""
    answers: tuple[Answer, ...]
    recalled: bool = False
    """Whether they were known from an earlier run."""


class AnswerJournal:
    """A file with one answered batch a line; a line that was cut off by a kill is dropped and answered again."""

    def __init__(self, path: Path, on_add: Callable[[], None] = lambda: None) -> None:
        """Of the file `path`; `on_add` is called whenever it holds another batch."""
        self._path = path
        self._on_add = on_add
        self._batches: list[AnsweredBatch] = []
        self._answered: set[tuple[str, System | None, str]] = set()
        for batch in recover_lines(path, AnsweredBatch.model_validate_json):
            self._keep(batch)

    def take_in(self, path: Path) -> None:
        """What another process has answered, or had by now; it stays where it is."""
        for batch in recover_lines(path, AnsweredBatch.model_validate_json, fix=False):
            self._keep(batch)

    def __len__(self) -> int:
        """Number of answered batches."""
        return len(self._batches)

    def holds(self, model: str, system: System, example_id: str) -> bool:
        """Whether a model has answered a row."""
        return (model, system, example_id) in self._answered

    def add(self, answered: AnsweredBatch) -> None:
        """Keep a batch, on disk first."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(answered.model_dump_json() + "\n")
        self._keep(answered)
        self._on_add()

    def of(self, model: str) -> list[AnsweredBatch]:
        """All batches of one model, in the order they came."""
        return [batch for batch in self._batches if batch.model == model]

    def _keep(self, batch: AnsweredBatch) -> None:
        rows = {(batch.model, answer.system, answer.example_id) for answer in batch.answers}
        if rows <= self._answered:  # what a process had kept twice when it was killed
            return
        self._batches.append(batch)
        self._answered |= rows
