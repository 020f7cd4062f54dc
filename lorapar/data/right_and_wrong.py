"""Questions with a right answer and wrong ones (SciQ, GPQA, TruthfulQA), asked as choices in a fixed order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from lorapar.data.cells import BadRowError, Cells
from lorapar.data.choice_lists import with_choices
from lorapar.data.choices import CONTEXTS

_QUESTIONS = ("question", "prompt", "query", "problem")
_RIGHT = ("correct_answer", "correct answer", "best_answer", "right_answer")
_WRONG = re.compile(r"(?:(?:incorrect|wrong)[ _]answer|distractor)(?:s|[ _]?\d)", re.IGNORECASE)
_MOST = len(ascii_uppercase)


@dataclass(frozen=True)
class RightAndWrong:
    """The columns of question, right answer and wrong ones in a source's rows."""

    question: str
    context: str | None
    answer: str
    wrong: tuple[str, ...]
    """The column with all wrong answers, or the columns with one each."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.question, *filter(None, [self.context]), self.answer, *self.wrong)

    @property
    def message(self) -> str:
        """A description of what was recognised, for people."""
        context = f" with '{self.context}' below it" if self.context else ""
        places = "', '".join(self.wrong)
        return (
            f"questions with a right answer and wrong ones: '{self.question}'{context} is the question, asked with "
            f"'{self.answer}' and '{places}' as choices, lettered from A in an order that the texts decide, and the "
            f"letter of '{self.answer}' is both answer and reference"
        )

    def read(self, where: str, row: dict[str, Any], cells: Cells) -> dict[str, Any]:
        """The row with the lettered question and the right letter; raises BadRowError."""
        question = cells.text(where, row, self.question)
        right = cells.text(where, row, self.answer)
        wrong = [text for name in self.wrong for text in _wrong(where, row, name, cells) if text != right]
        if not question or not right:
            lacks, column = ("an answer", self.answer) if question else ("a question", self.question)
            raise BadRowError(f"{where}: a row without {lacks} ('{column}' is empty or missing)")
        texts = sorted({right, *wrong}, key=lambda one: hashlib.sha256(f"{question}\0{one}".encode()).digest())
        if not 2 <= len(texts) <= _MOST:
            places = "', '".join(self.wrong)
            raise BadRowError(
                f"{where}: a row with {len(texts) - 1} wrong answers ('{places}'); 1 to {_MOST - 1} are read"
            )
        asked = with_choices(question, cells.paragraphs(where, row, self.context, written=True), texts)
        return {**row, self.question: asked, self.answer: ascii_uppercase[texts.index(right)]}


def _wrong(where: str, row: dict[str, Any], column: str, cells: Cells) -> list[str]:
    """The wrong answers of a column; a column with all of them may list them in a text, as in CSV."""
    return cells.listed(where, row, column) if column.endswith("s") else cells.texts(where, row, column)


def find_right_and_wrong(columns: Collection[str]) -> RightAndWrong | None:
    """The columns of question, right answer and wrong ones; None where one of them is missing."""
    question, right = (next((name for name in names if name in columns), None) for names in (_QUESTIONS, _RIGHT))
    wrong = tuple(sorted(name for name in columns if _WRONG.fullmatch(name)))
    if question is None or right is None or not wrong:
        return None
    return RightAndWrong(question, next((name for name in CONTEXTS if name in columns), None), right, wrong)
