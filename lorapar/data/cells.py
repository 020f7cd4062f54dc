"""Cells of rows as text, and missing values: null, NaN, pandas' NA, and their forms in files.

In pandas, a column of whole numbers with a missing value is a column of floats: `18` becomes `18.0`. So whole floats
are read without the point, and so is a column of a CSV file in which every number ends in `.0` and a cell is empty.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from lorapar.data.readers import OneOfTwo, RawRow, is_separated
from lorapar.data.written import read_written, texts_in
from lorapar.plain_text import plain_characters

_BLANK_TEXTS = frozenset({"nan", "<na>", "nat", "#n/a"})
"""What programs write for a missing value. `None` and `null` are not among them: they are words and may be answers."""
_DOUBTFUL_TEXTS = frozenset({"null", "none", "n/a", "na", "nil", "#value!", "-", "--", "?", "."})
"""What people write for a missing value, but sometimes mean as a text: it is read as a text, with a note."""
_WHOLE = re.compile(r"(-?[0-9]+)\.0")
_BARRED = re.compile(r"[^|\\$]*\w[^|\\$]*\|+[^|\\$]*\w[^\\$]*")
_EXACT_FLOAT = 2**53


class BadRowError(Exception):
    """An unusable row; the message says where it is and why."""


class Cells:
    """The cells of a source's rows."""

    def __init__(self, rows: Iterable[RawRow]) -> None:
        """Takes all rows of the source: a column's other cells decide how its numbers are read."""
        self.blank_texts: Counter[str] = Counter()
        """The number of cells, by column, with a text for a missing value."""
        self.doubtful: Counter[tuple[str, str]] = Counter()
        """The number of cells, by column and text, that may mean a missing value and are read as a text."""
        self.written_lists: Counter[str] = Counter()
        """The number of cells, by column, that hold a list of texts as a text."""
        self.barred: Counter[str] = Counter()
        """The number of cells, by column, with texts separated by `|`, which are read as one text."""
        self._floats = _float_columns(rows)

    def text(self, where: str, row: dict[str, Any], column: str | None) -> str:
        """A column's text without surrounding white space; empty where it is not mapped or has no value."""
        value = row.get(column) if column is not None else None
        return self._text(where, value, str(column))

    def texts(self, where: str, row: dict[str, Any], column: str | None) -> list[str]:
        """A column that holds a text or a list of texts, as a list; empty texts are left out."""
        return self._each(where, row.get(column) if column is not None else None, str(column))

    def listed(self, where: str, row: dict[str, Any], column: str) -> list[str]:
        """Like `texts`, for a column of lists: also reads a list that is written as a text."""
        value = row.get(column)
        written = read_written(value) if isinstance(value, str) else None
        return self._each(where, written if isinstance(written, list) else value, column)

    def paragraphs(self, where: str, row: dict[str, Any], column: str | None, *, written: bool = False) -> str:
        """A column with a text or a list of paragraphs (texts or lists of sentences), as one text.

        `written`: also read such a list from a CSV file, which has it as a text.
        """
        value = row.get(column) if column is not None else None
        if written and isinstance(value, str) and is_separated(where):
            value = _paragraphs_in(value) or value
        parts = value if isinstance(value, list | tuple) else [value]
        return "\n\n".join(filter(None, (" ".join(self._each(where, part, str(column))) for part in parts)))

    def references(self, where: str, row: dict[str, Any], column: str | None, *, counted: bool = True) -> list[str]:
        """Like `texts`; a text that is a list of texts counts as its texts and as itself, since either may be meant."""
        found = self.texts(where, row, column)
        if column is None or not isinstance(row.get(column), str) or len(found) != 1:
            return found
        listed = texts_in(found[0])
        if listed is not None:
            self.written_lists[column] += counted
            return [*(text for one in listed if (text := self._text(where, one, column))), *found]
        self.barred[column] += counted and _BARRED.fullmatch(found[0]) is not None
        return found

    def _each(self, where: str, value: Any, column: str) -> list[str]:
        values = value if isinstance(value, list | tuple) else [value]
        return [text for one in values if (text := self._text(where, one, column))]

    def _text(self, where: str, value: Any, column: str) -> str:
        if isinstance(value, OneOfTwo):
            raise BadRowError(f"{where}: two columns are called '{column}', and they differ here; rename one of them")
        text = as_text(value)
        if text is None:
            hint = "; only the reference may be a list, of texts" if isinstance(value, list | tuple) else ""
            if isinstance(value, bool):
                hint = "; write the word that is meant, as yes or no"
            if isinstance(value, dict) and value:
                fields = " or ".join(f"{column}.{name}" for name in list(value)[:4])
                hint = f"; name the field of it that is meant, {fields}, in data.columns"
            raise BadRowError(f"{where}: '{column}' is not text but {type(value).__name__}{hint}")
        if isinstance(value, float | Decimal) and math.isinf(value):
            raise BadRowError(f"{where}: '{column}' is {value}, which is not a number that can be compared")
        check_characters(f"{where}: '{column}'", text)
        if text.casefold() in _DOUBTFUL_TEXTS:
            self.doubtful[column, text] += 1
        if isinstance(value, str) and value.strip().casefold() in _BLANK_TEXTS:
            self.blank_texts[column] += 1
        whole = _WHOLE.fullmatch(text) if column in self._floats else None
        return whole[1] if whole else text


def check_characters(place: str, text: str) -> None:
    """Refuse half a surrogate pair, which JSON can express but no file can hold; `place` is row and field."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise BadRowError(
            f"{place} has \\u{half:04x}, half of a character that is written as two; write it whole, or take it out"
        ) from None


def _paragraphs_in(text: str) -> list[Any] | None:
    """The paragraphs that a text lists (texts or lists of texts); None where it is not such a list."""
    found = read_written(text)
    parts = found if isinstance(found, list) else []
    flat = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    return parts if flat and all(isinstance(one, str) for one in flat) else None


def as_text(value: Any) -> str | None:
    """A text or a number as a text, empty for a missing value; None for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):  # most are
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return None
        if isinstance(value, float | Decimal) and math.isnan(value):
            return ""
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
            return str(int(value))
    text = str(value).strip()
    if not text.isascii() and not plain_characters(text).strip():
        return ""  # only invisible characters, as in copied tables
    return "" if text.casefold() in _BLANK_TEXTS else text


def as_begun(text: str, cell: Any) -> str:
    """A cell's text with its leading white space, which belongs to completions and code."""
    return cell.rstrip() if isinstance(cell, str) and cell.strip() == text else text


def _float_columns(rows: Iterable[RawRow]) -> set[str]:
    """Columns of texts in which every value is a whole number with `.0` and a cell is empty."""
    some: set[str] = set()
    other: set[str] = set()
    gaps: set[str] = set()
    for _, row in rows:
        for column, value in row.items():
            if column in other:
                continue
            if not isinstance(value, str):
                other.add(column)
            elif not value.strip() or value.strip().casefold() in _BLANK_TEXTS:
                gaps.add(column)
            else:
                (some if _WHOLE.fullmatch(value.strip()) else other).add(column)
    return (some & gaps) - other
