"""Questions whose answer is true or false, or yes or no (BoolQ, StrategyQA): they are answered by yes or no."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.data.cells import BadRowError, Cells, as_text
from lorapar.data.choice_lists import CHOICES
from lorapar.data.choices import CONTEXTS

_QUESTIONS = ("question", "prompt", "query", "input")
_ANSWERS = ("answer", "label", "target")
_WORDS = {"true": "yes", "yes": "yes", "false": "no", "no": "no"}
_TEXTS = ("answer", "completion", "response", "output", "solution", "chosen", *CHOICES)
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
        if as_text(cell) == "":
            raise BadRowError(f"{where}: a row without an answer ('{self.answer}' is empty or missing)")
        word = _word(cell)
        if word is None:
            raise BadRowError(
                f"{where}: '{self.answer}' is {cell!r:.60}, and is true or false, or yes or no, in the other rows; "
                "name the columns in data.columns to take all answers as they stand"
            )
        return {**row, self.answer: word}


def find_yes_no(columns: Collection[str], rows: Sequence[Mapping[str, Any]]) -> YesNoColumns | None:
    """Question and truth value, where most of these rows have one and the rest no other text; None where not."""
    question = next((name for name in _QUESTIONS if name in columns), None)
    truths = [name for name in _ANSWERS if _is_truth([row.get(name) for row in rows])]
    if question is None or not truths or (truths[0] != "answer" and set(_TEXTS) & set(columns)):
        return None
    context = next((name for name in CONTEXTS if name in columns), None)
    return YesNoColumns(question, context, truths[0])


def _is_truth(cells: Sequence[Any]) -> bool:
    words = sum(_word(cell) is not None for cell in cells)
    other = any(isinstance(cell, str) and as_text(cell) and _word(cell) is None for cell in cells)
    return 2 * words > len(cells) and (not other or 2 * sum(isinstance(cell, bool) for cell in cells) > len(cells))


def _word(cell: Any) -> str | None:
    """Yes or no; None for any other cell."""
    text = str(cell) if isinstance(cell, bool) else as_text(cell)
    return _WORDS.get(text.casefold()) if text is not None else None
