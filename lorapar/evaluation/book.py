"""Answers kept as they come, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorapar.records import Answer, Record, recover_lines


class AnsweredBatch(Record):
    """One model's answers to one batch."""

    model: str
    batch: int
    seconds: float
    """Time that generating them took."""
    answers: tuple[Answer, ...]


class AnswerBook:
    """A file with one answered batch a line; a line that was cut off by a kill is dropped and answered again."""

    def __init__(self, path: Path, on_add: Callable[[], None] = lambda: None) -> None:
        """Of the file `path`; `on_add` is called whenever it holds another batch."""
        self._path = path
        self._on_add = on_add
        self._batches: dict[tuple[str, int], AnsweredBatch] = {}
        for batch in recover_lines(path, AnsweredBatch.model_validate_json):
            self._batches[(batch.model, batch.batch)] = batch

    def __len__(self) -> int:
        """Number of answered batches."""
        return len(self._batches)

    def find(self, model: str, batch: int) -> AnsweredBatch | None:
        """What a model answered to a batch; None where it was not asked yet."""
        return self._batches.get((model, batch))

    def add(self, answered: AnsweredBatch) -> None:
        """Keep a batch, on disk first."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(answered.model_dump_json() + "\n")
        self._batches[(answered.model, answered.batch)] = answered
        self._on_add()

    def of(self, model: str) -> list[AnsweredBatch]:
        """All batches of one model, in their order."""
        return [batch for (name, _), batch in sorted(self._batches.items()) if name == model]
