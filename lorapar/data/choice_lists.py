"""The choices of a row: which columns hold them, how a cell lists them, and whether the question lists them itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase, digits
from typing import Any

from lorapar.data.cells import as_text
from lorapar.data.written import read_written

CHOICES = ("choices", "options", "endings", "question.choices", "choice")
"""Columns that hold all choices of a question."""
_LISTS = (("text", "label"), ("text", "key"), ("text", "id"), ("content", "id"), ("content", "label"))
"""Names of a choice's text and of its mark, where choices are structures."""
_OWN_COLUMN = re.compile(
    r"(?P<stem>|option|opt|op|choice|answer|ans|ending|sol|solution|alternative|candidate)[ _-]?(?P<mark>[a-j]|\d)",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])\s?[).:]\s*")
_BEHIND_MARK = r"[\s*]{0,2}[).:\]][\s*`\"'$]{0,8}"
_BEHIND_TEXT = r"(?!\w|[.,]\d)"
_BETWEEN = r"(?:[^\w]{0,8}\b(?:or|and)\b)?[^\w]{0,8}"
"""Separators after a choice's mark, after its text, and between two choices in a question."""
_FEWEST, _MOST = 2, len(ascii_uppercase)


@dataclass(frozen=True)
class Choice:
    """One choice of a question, and its mark in the row."""

    mark: str
    text: str


def choice_columns(columns: Collection[str]) -> tuple[str, ...] | None:
    """The column with all choices, or those with one each: `A` to `D`, `option1` to `option4`, `opa` to `opd`."""
    whole = next((name for name in CHOICES if name in columns), None)
    if whole is not None:
        return (whole,)
    stems: dict[tuple[str, bool], dict[int, str]] = {}
    for name in columns:
        match = _OWN_COLUMN.fullmatch(name)
        if match is not None:
            mark = match["mark"].lower()
            number = int(mark) if mark.isdigit() else ord(mark) - ord("a")
            stems.setdefault((match["stem"].lower(), mark.isdigit()), {})[number] = name
    for (_, is_number), of in stems.items():
        in_order = sorted(of)
        if len(of) >= _FEWEST and in_order[0] <= is_number and in_order[-1] - in_order[0] == len(of) - 1:
            return tuple(of[number] for number in in_order)
    return None


def choices_of(row: Mapping[str, Any], columns: Sequence[str]) -> list[Choice] | None:
    """The choices of a row; None where it has fewer than two, or they cannot be read."""
    found = _marks_and_texts(row, columns)
    if found is None:
        return None
    marks, texts = found
    named = (as_text(mark) or letter for mark, letter in zip(marks, ascii_uppercase, strict=False))
    return [Choice(mark, text) for mark, text in zip(named, _without_letters(texts), strict=False)]


def choice_count(row: Mapping[str, Any], columns: Sequence[str]) -> int:
    """How many choices a row has; 0 where `choices_of` has none."""
    found = _marks_and_texts(row, columns)
    return 0 if found is None else len(found[1])


def listed_marks(question: str, choices: Sequence[Choice]) -> str | None:
    """The letters or numbers of the choices in a question's own list; None where it has no list."""
    for marks in (ascii_uppercase, digits[1:]):
        listed = [
            rf"(?<!\w)(?i:{mark}){_BEHIND_MARK}{re.escape(one.text)}{_BEHIND_TEXT}"
            for mark, one in zip(marks, choices, strict=False)
        ]
        if len(listed) == len(choices) and re.search(_BETWEEN.join(listed), question):
            return marks
    return None


def with_choices(question: str, context: str, texts: Sequence[str]) -> str:
    """A question with its choices, lettered, and with its context unless it contains that already."""
    listed = "\n".join(f"{mark}. {text}" for mark, text in zip(ascii_uppercase, texts, strict=False))
    return "\n\n".join(filter(None, [question, "" if context in question else context, listed]))


def _marks_and_texts(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[Any], list[str]] | None:
    found = _within(row.get(columns[0])) if len(columns) == 1 else [(_mark_of(name), row.get(name)) for name in columns]
    texts = [as_text(text) for _, text in found or ()]
    while texts and texts[-1] == "":  # some questions have four choices where others have five
        texts.pop()
    if found is None or not _FEWEST <= len(texts) <= _MOST or not all(texts):
        return None
    return [mark for mark, _ in found], [text for text in texts if text]


def _mark_of(column: str) -> str:
    match = _OWN_COLUMN.fullmatch(column)
    return match["mark"].upper() if match else column


def _within(cell: Any) -> list[tuple[Any, Any]] | None:
    """(mark, text) of every choice in a cell; the mark is empty where the cell has none."""
    if isinstance(cell, str):
        written = read_written(cell)
        return _in_text(cell) if written is None else _within(written)
    if isinstance(cell, Mapping):
        texts = next((cell[name] for name in ("text", "content") if isinstance(cell.get(name), list | tuple)), None)
        if texts is None:
            return list(cell.items())
        marks = next((cell[name] for name in ("label", "key", "id") if isinstance(cell.get(name), list | tuple)), None)
        marks = marks if marks is not None and len(marks) == len(texts) else [None] * len(texts)
        return list(zip(marks, texts, strict=True))
    if not isinstance(cell, list | tuple):
        return None
    if all(isinstance(one, Mapping) for one in cell):
        names = next((names for names in _LISTS if all(set(names) <= set(one) for one in cell)), None)
        return None if names is None else [(one[names[1]], one[names[0]]) for one in cell]
    return [(None, one) for one in cell]


def _in_text(text: str) -> list[tuple[Any, Any]] | None:
    """Consecutive choices in a text: `a ) 38 , b ) 27.675`."""
    found, letter = [], "a"
    for match in _LETTERED.finditer(text):
        if match[1].lower() == letter:
            found.append(match)
            letter = chr(ord(letter) + 1)
    if len(found) < _FEWEST or text[: found[0].start()].strip():
        return None
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [(m[1].upper(), text[m.end() : end].strip(" ,;\t\n")) for m, end in zip(found, ends, strict=True)]


def _without_letters(texts: list[str]) -> list[str]:
    """Texts without their leading letters, if all have one: `A) 21`, `(B) 22`."""
    own = [
        re.match(rf"\(?{letter}\s?[).:]\s*(?=\S)", one, re.I)
        for letter, one in zip(ascii_uppercase, texts, strict=False)
    ]
    return [one[match.end() :] if match else one for one, match in zip(texts, own, strict=True)] if all(own) else texts
