"""The texts by which rows that a task of lm-eval asks can be found in other data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lorapar.data.overlap import has_words

if TYPE_CHECKING:
    from lm_eval.api.task import Task

ROLLING = "loglikelihood_rolling"
_ANSWERS = re.compile(r"answer|solution|rationale|explanation|cot_content|target|label|output|response", re.I)
"""Names of columns that answer a question."""
_WORDS_OF_A_CELL = 3
"""Words of a cell that can be a question by itself."""


def known_texts(task: Task, docs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(id, text) of rows by their ids: the question of each, and its cells that no other row has."""
    cells = {name: _cells(task, doc) for name, doc in docs.items()}
    rows = Counter(cell for own in cells.values() for cell in own)
    for name, doc in docs.items():
        texts = [*_asked_texts(task, doc), *(cell for cell in cells[name] if rows[cell] == 1)]
        for text in dict.fromkeys(texts or [str(task.doc_to_text(doc))]):
            yield name, text


def _asked_texts(task: Task, doc: Mapping[str, Any]) -> list[str]:
    """The question of a row by which it can be found in other data.

    Where that holds no words (it is empty, or says which choice fits a blank) they are the choices, each with what
    follows it.
    """
    if str(task.OUTPUT_TYPE) == ROLLING:
        return [str(task.doc_to_target(doc))]
    asked = task.doc_to_text(doc)
    texts = [asked] if isinstance(asked, str) and has_words(asked) else []
    if not texts and task.OUTPUT_TYPE == "multiple_choice":
        behind = task.doc_to_target(doc)
        behind = f" {behind}" if isinstance(behind, str) and bool(getattr(task, "multiple_input", False)) else ""
        texts = [f"{choice}{behind}" for choice in task.doc_to_choice(doc)]
    return texts


def _cells(task: Task, doc: Mapping[str, Any]) -> list[str]:
    """The cells of a row by which it can be found, too, as a template puts words around them: those that it names.

    Where a function takes the place of a template, or there is none, every cell with some words counts,
    but for answers.
    """
    if str(task.OUTPUT_TYPE) == ROLLING:
        return []
    template = task.config.doc_to_text
    named = template if isinstance(template, str) and template.strip() else None
    cells = (
        str(value)
        for name, value in doc.items()
        if isinstance(value, str)
        and len(value.split()) >= _WORDS_OF_A_CELL
        and (
            not _ANSWERS.search(str(name))
            if named is None
            else re.search(rf"\{{[{{%][^}}]*\b{re.escape(str(name))}\b", named)
        )
    )
    return list(dict.fromkeys(cells))
