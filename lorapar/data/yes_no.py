"""Questions whose answer is true or false (BoolQ, StrategyQA): they are answered by yes or no."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.data.cells import BadRowError, Cells

_QUESTIONS = ("question", "prompt", "query", "input")
_CONTEXTS = ("context", "passage")
_ANSWERS = ("answer", "label", "target")
_TEXTS = ("answer", "completion", "response", "output", "solution", "chosen", "choices", "options", "endings")
"""Answers beside which a truth value says something of them: whether they are good, in rows for KTO."""


@dataclass(frozen=True)
class YesNoColumns:
    """Where a source's rows have question and truth value."""

    question: str
    context: str | None
    answer: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.question, *filter(None, [self.context]), self.answer)

    @property
    def message(self) -> str:
        """What was recognised, for people."""
        context = f" with '{self.context}' below it" if self.context else ""
        return (
            f"questions to answer with yes or no: '{self.question}'{context} is the question, and '{self.answer}', yes "
            "for true and no for false, is both answer and reference"
        )

    def read(self, where: str, row: dict[str, Any], cells: Cells) -> dict[str, Any]:
        """The row with yes or no as its answer; raises BadRowError."""
        cell = row.get(self.answer)
        if cell is None:
            raise BadRowError(f"{where}: a row without an answer ('{self.answer}' is empty or missing)")
        if not isinstance(cell, bool):
            raise BadRowError(f"{where}: '{self.answer}' is {cell!r:.60}, and is true or false in the other rows")
        return {**row, self.answer: "yes" if cell else "no"}


def find_yes_no(columns: Collection[str], rows: Sequence[Mapping[str, Any]]) -> YesNoColumns | None:
    """Question and truth value, where most of these rows have one; None where they have not."""
    question = next((name for name in _QUESTIONS if name in columns), None)
    truths = [name for name in _ANSWERS if 2 * sum(isinstance(row.get(name), bool) for row in rows) > len(rows)]
    if question is None or not truths or (truths[0] != "answer" and set(_TEXTS) & set(columns)):
        return None
    context = next((name for name in _CONTEXTS if name in columns), None)
    return YesNoColumns(question, context, truths[0])
