"""Ask several models the same held-out rows: one base model in memory, adapters put on and taken off in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorapar.evaluation.answers import Answerer, Asking, Batch
from lorapar.evaluation.book import AnswerBook, AnsweredBatch
from lorapar.evaluation.engine import Engine
from lorapar.progress import Progress

Contestants = Mapping[str, Path | None]
"""By name, the PEFT folder of its adapter; None for the bare base model."""


def answer_all(
    contestants: Contestants,
    engine: Engine,
    batches: Sequence[Batch],
    asking: Asking,
    book: AnswerBook,
    progress: Progress,
) -> None:
    """Fill the book with every contestant's answers to every batch, leaving out what it holds already."""
    for name, folder in contestants.items():
        missing = [number for number in range(len(batches)) if book.find(name, number) is None]
        if not missing:
            continue
        progress.start(f"asking {name}", total=sum(len(batches[number].rows) for number in missing))
        right = asked = 0
        with engine.asked(folder) as model:
            answerer = Answerer(name, model, asking)
            for number in missing:
                answers, seconds = answerer.answer(batches[number])
                book.add(AnsweredBatch(model=name, batch=number, seconds=seconds, answers=tuple(answers)))
                right += sum(bool(answer.strict) for answer in answers)
                asked += len(answers)
                progress.advance(len(answers), f"{right} of {asked} right")
