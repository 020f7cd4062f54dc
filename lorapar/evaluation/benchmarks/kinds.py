"""What a row of each benchmark must hold; what is wrong with one is said in words, by column."""

from __future__ import annotations

import codeop
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lorapar.data.cells import as_text
from lorapar.data.column_names import column_meant
from lorapar.data.written import read_written
from lorapar.errors import BadInputError

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters that choices are asked by; the task file of mmlu has the same."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("question", "answer"),
    "mmlu": ("subject", "question", "choices", "answer"),
    "humaneval": ("task_id", "prompt", "test", "entry_point"),
}
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")


class _WrongError(Exception):
    """A column and what is wrong with it."""


def checked_row(task: str, where: str, raw: Mapping[str, Any]) -> Row:
    """The columns of a benchmark's row; raises BadInputError that names place and column."""
    try:
        for column in COLUMNS[task]:
            if raw.get(column) is None:
                raise _WrongError(_missing(column, raw))
        return _KINDS[task](raw)
    except _WrongError as error:
        needed = ", ".join(COLUMNS[task])
        raise BadInputError(f"{where}: {error} (a row of {task} has {needed})") from None


def name_of(task: str, row: Row) -> str | None:
    """The name a row brings itself; None: it goes by a digest of what it asks."""
    return str(row["task_id"]) if task == "humaneval" else None


def _missing(column: str, raw: Mapping[str, Any]) -> str:
    if column in raw:
        return f"{column} is empty"
    return f"there is no column {column}{column_meant(column, column, [str(one) for one in raw])}"


def _gsm8k(raw: Mapping[str, Any]) -> Row:
    answer = _text(raw, "answer")
    if not re.search(r"####\s*\S", answer):
        raise _WrongError(f"answer ends in '{answer.strip()[-30:]}'; put the number behind #### at its end")
    return {"question": _text(raw, "question"), "answer": answer}


def _mmlu(raw: Mapping[str, Any]) -> Row:
    choices = _choices(raw["choices"])
    return {
        "subject": _text(raw, "subject"),
        "question": _text(raw, "question"),
        "choices": choices,
        "answer": _place(raw["answer"], len(choices)),
    }


def _choices(value: Any) -> list[str]:
    if isinstance(value, str):  # CSV has no lists
        value = read_written(value) or value
    if not isinstance(value, list | tuple):
        raise _WrongError(f"choices is {_shown(value)}; give a list of texts")
    if not 2 <= len(value) <= len(LETTERS):
        raise _WrongError(f"choices has {len(value)}; give 2 to {len(LETTERS)} of them")
    for number, one in enumerate(value):
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise _WrongError(f"choices[{number}] is {_shown(one)}; give a text")
    return [str(one) for one in value]


def _place(value: Any, choices: int) -> int:
    """The place of the right choice, from its number or letter."""
    letter = _LETTER.fullmatch(value.strip()) if isinstance(value, str) else None
    place = LETTERS.index(letter[1].upper()) if letter is not None else _number(value)
    if place is None or not 0 <= place < choices:
        last = LETTERS[choices - 1]
        raise _WrongError(f"answer is {_shown(value)}; use a letter A to {last} or a number 0 to {choices - 1}")
    return place


def _number(value: Any) -> int | None:
    text = None if isinstance(value, bool) else as_text(value)
    match = re.fullmatch(r"(\d{1,9})(?:\.0+)?", text or "")
    return int(match[1]) if match else None


def _humaneval(raw: Mapping[str, Any]) -> Row:
    row = {column: _text(raw, column) for column in COLUMNS["humaneval"]}
    name = row["entry_point"].strip()
    if not name.isidentifier():
        raise _WrongError(f"entry_point is '{name[:40]}', which is not a function's name")
    if not re.search(rf"def\s+{re.escape(name)}\s*\(", row["prompt"]):
        raise _WrongError(f"prompt defines no function {name}, which entry_point names")
    if not re.search(r"def\s+check\s*\(", row["test"]):
        raise _WrongError("test defines no function check(candidate)")
    column = "test"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a docstring's backslashes
            compile(row["test"], "test", "exec")
            column = "prompt"
            codeop.compile_command(row["prompt"], "prompt", "exec")  # which may end before its function does
    except (SyntaxError, ValueError, OverflowError) as error:
        raise _WrongError(f"{column} is not valid Python: {error}") from None
    return {**row, "entry_point": name}


def _text(raw: Mapping[str, Any], column: str) -> str:
    value = raw[column]
    if not isinstance(value, str):
        raise _WrongError(f"{column} is {_shown(value)}; give a text")
    if not value.strip():
        raise _WrongError(f"{column} is empty")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= len(LETTERS) * 2 else f"a {type(value).__name__}"


_KINDS: dict[str, Callable[[Mapping[str, Any]], Row]] = {"gsm8k": _gsm8k, "mmlu": _mmlu, "humaneval": _humaneval}
