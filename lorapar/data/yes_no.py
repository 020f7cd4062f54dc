"""Questions whose answer is true or false, or yes or no (BoolQ, StrategyQA): truth values become yes or no."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.data.cells import BadRowError, Cells, as_text
from lorapar.data.choice_lists import CHOICES
from lorapar.data.choices import CONTEXTS

_QUESTIONS = ("question", "prompt", "query", "input")
_ANSWERS = ("answer", "label", "target")
_WORDS = {"true": "yes", "yes": "yes", "false": "no", "no": "no"}
_WHOLE = ("completion", "response", "output", "solution", "generated_solution", "long_answer", "chosen", *CHOICES)
"""Columns of whole answers, next to which a column `answer` is the short one."""
_BESIDE = (*CONTEXTS, "passages", "id", "idx", "qid", "uid", "question_id", "system", "system_prompt")
"""Columns next to a label. A text in any other column may be what the label judges, as in rows for KTO."""
_NAMED = re.compile(r"\b(?:true|false)\b", re.IGNORECASE)


@dataclass(frozen=True)
class YesNoColumns:
    """The columns of question and truth value in a source's rows."""

    question: str
    context: str | None
    answer: str
    worded: bool = False
    """Whether the answers are texts, which stay unchanged."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.question, *filter(None, [self.context]), self.answer)

    @property
    def message(self) -> str:
        """A description of what was recognised, for people."""
        context = f" with '{self.context}' below it" if self.context else ""
        words = "" if self.worded else ", yes for true and no for false,"
        return (
            f"questions to answer with yes or no: '{self.question}'{context} is the question, and '{self.answer}'"
            f"{words} {'' if words else 'as it stands '}is both answer and reference"
        )

    def read(self, where: str, row: dict[str, Any], cells: Cells) -> dict[str, Any]:
        """The row with yes or no, or its own word, as the answer; raises BadRowError."""
        cell = row.get(self.answer)
        if as_text(cell) == "":
            raise BadRowError(f"{where}: a row without an answer ('{self.answer}' is empty or missing)")
        word = truth_word(cell)
        if word is None:
            raise BadRowError(
                f"{where}: '{self.answer}' is {cell!r:.60}, and is true or false, or yes or no, in the other rows; "
                "name the columns in data.columns to take all answers as they stand"
            )
        return row if self.worded and isinstance(cell, str) else {**row, self.answer: word}


def find_yes_no(
    columns: Collection[str], rows: Sequence[Mapping[str, Any]], *, separated: bool = False
) -> YesNoColumns | None:
    """Question and truth value, if most of these rows have one and the others no other text; None otherwise.

    `separated`: the rows come from a CSV file, which has truth values as texts.
    """
    question = next((name for name in _QUESTIONS if name in columns), None)
    truths = [name for name in _ANSWERS if _is_truth([row.get(name) for row in rows])]
    if question is None or not truths or _is_of_another(truths[0], question, rows):
        return None
    context = next((name for name in CONTEXTS if name in columns), None)
    cells = [row.get(truths[0]) for row in rows]
    worded = not any(isinstance(cell, bool) for cell in cells)
    if worded and separated and all(str(cell).strip().casefold() in ("true", "false", "") for cell in cells):
        worded = any(_NAMED.search(str(row.get(question))) for row in rows)
    return YesNoColumns(question, context, truths[0], worded)


def _is_of_another(truth: str, question: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether another column may hold the answers: a whole answer next to `answer`, or any text next to a label."""
    texts = {
        name.split(".")[0] for row in rows for name, cell in row.items() if cell and isinstance(cell, str | list | dict)
    } - {truth, question}
    return bool(texts & set(_WHOLE) if truth == "answer" else texts - set(_BESIDE))


def _is_truth(cells: Sequence[Any]) -> bool:
    words = sum(truth_word(cell) is not None for cell in cells)
    other = any(isinstance(cell, str) and as_text(cell) and truth_word(cell) is None for cell in cells)
    return 2 * words > len(cells) and (not other or 2 * sum(isinstance(cell, bool) for cell in cells) > len(cells))


def truth_word(cell: Any) -> str | None:
    """Yes or no; None for any other cell."""
    text = str(cell) if isinstance(cell, bool) else as_text(cell)
    return _WORDS.get(text.casefold()) if text is not None else None
