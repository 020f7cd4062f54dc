"""Rows with choices, as exams have them: the question is asked with lettered choices, and a letter is the answer.

Known are MMLU, ARC, HellaSwag, RACE, MedQA, AQuA and the like: choices in one column (a list, a structure, JSON text)
or each in a column of its own. Which of them is right may be said by its letter, its text or its place.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from lorapar.data.cells import BadRowError, Cells

CHOICES = ("choices", "options", "endings", "question.choices")
"""Columns that hold all choices of a question."""
_QUESTIONS = (
    *("question.stem", "question", "question_stem", "prompt", "query", "problem", "stem", "ctx", "sentence", "goal"),
    *("startphrase", "input", "q"),
)
_CONTEXTS = ("context", "passage", "article", "premise")
_RIGHT = (
    *("answerKey", "answerkey", "answer_key", "answer_idx", "answer_index", "answer_letter", "correct_option"),
    *(
        "correct_choice",
        "correct_answer",
        "correct_index",
        "correct",
        "right",
        "cop",
        "gold",
        "label",
        "target",
        "answer",
    ),
)
_LISTS = (("text", "label"), ("text", "key"), ("text", "id"), ("content", "id"), ("content", "label"))
"""Names of a choice's text and of its mark, where choices are structures."""
_OWN_COLUMN = re.compile(
    r"(?P<stem>|option|opt|op|choice|answer|ending|sol|solution|alternative|candidate)[ _-]?(?P<mark>[a-j]|\d)",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])\s?[).:]\s*")
_SAYS = re.compile(
    r"(?:(?:the )?(?:right |correct )?(?:answer|option|choice)[\s_:]*(?:is )?)?\(?([a-z]|\d{1,2})[).:]?(?:\s+(.+))?",
    re.DOTALL,
)
_NAMES_CHOICES = re.compile(r"(?<!\w)[Aa1]\s?[).:]")
_FEWEST, _MOST = 2, len(ascii_uppercase)

Kind = Literal["letter", "text", "place"]
_TELLS: dict[Kind, str] = {"letter": "names it", "text": "is its text", "place": "is its place, counted from {base}"}


@dataclass(frozen=True)
class Choice:
    """One choice of a question, and what the row calls it."""

    mark: str
    text: str


@dataclass(frozen=True)
class ChoiceColumns:
    """Where a source's rows have question and choices, and how they say which is right."""

    question: str
    context: str | None
    columns: tuple[str, ...]
    """The one column with all choices, or those with one each."""
    answer: str
    kind: Kind = "letter"
    base: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.question, *filter(None, [self.context]), *self.columns, self.answer)

    @property
    def message(self) -> str:
        """What was recognised, for people."""
        where = f"'{self.columns[0]}'" + (f" to '{self.columns[-1]}'" if self.columns[1:] else "")
        context = f" with '{self.context}' below it" if self.context else ""
        tells = _TELLS[self.kind].format(base=self.base)
        return (
            f"questions with choices: '{self.question}'{context} and the choices in {where}, lettered from A, are the "
            f"question, and the letter of the right one ('{self.answer}' {tells}) is both answer and reference"
        )

    def read(self, where: str, row: dict[str, Any], cells: Cells) -> dict[str, Any]:
        """The row with the lettered question and the right letter; raises BadRowError."""
        question = cells.text(where, row, self.question)
        choices = choices_of(row, self.columns)
        if not question or choices is None:
            lacks = "choices" if question else "a question"
            places = ", ".join(f"'{name}'" for name in (self.columns if question else [self.question]))
            raise BadRowError(f"{where}: a row without {lacks} ({places} is empty, missing or no list of two or more)")
        right = self._right(where, row, choices)
        if not names_choices(question, choices):
            context = cells.text(where, row, self.context)
            listed = "\n".join(f"{mark}. {one.text}" for mark, one in zip(ascii_uppercase, choices, strict=False))
            question = "\n\n".join(filter(None, [question, context, listed]))
        return {**row, self.question: question, self.answer: ascii_uppercase[right]}

    def _right(self, where: str, row: dict[str, Any], choices: Sequence[Choice]) -> int:
        cell = row.get(self.answer)
        if cell in (None, "", -1, "-1", [], ()):
            raise BadRowError(f"{where}: a row without an answer ('{self.answer}' is {cell!r}: test sets hide it)")
        place = _place(cell, choices, self.kind, self.base)
        if place is None:
            marks = ", ".join(one.mark for one in choices)
            how = {
                "letter": f"the choices are {marks}",
                "text": "no choice, or more than one, has this text",
                "place": f"the {len(choices)} choices are counted from {self.base}, as the first rows show",
            }[self.kind]
            raise BadRowError(f"{where}: '{self.answer}' is {cell!r:.60}, which is none of the row's choices: {how}")
        return place


@dataclass(frozen=True)
class Unclear:
    """Rows with choices of which it cannot be told which one is right."""

    message: str


def find_choices(columns: Collection[str], rows: Sequence[Mapping[str, Any]]) -> ChoiceColumns | Unclear | None:
    """Where most of these rows have choices that their question does not name; None where they have not."""
    question = next((name for name in _QUESTIONS if name in columns), None)
    held = _choice_columns(columns)
    if question is None or held is None or question in held:
        return None
    asked = [row for row in rows if isinstance(row.get(question), str)]
    read = [(row, choices) for row in asked if (choices := choices_of(row, held)) is not None]
    read = [(row, choices) for row, choices in read if not names_choices(row[question], choices)]
    if not rows or 2 * len(read) <= len(rows):
        return None
    context = next((name for name in _CONTEXTS if name in columns and name != question), None)
    told = {
        name: _told_by([(row.get(name), choices) for row, choices in read], len(held) == 1)
        for name in _RIGHT
        if name in columns and name not in held
    }
    known = {name: kind for name, kind in told.items() if isinstance(kind, tuple)}
    if known:
        answer = min(known, key=lambda name: list(_TELLS).index(known[name][0]))  # a letter is told from any other
        return ChoiceColumns(question, context, held, answer, *known[answer])
    unclear = next((name for name, kind in told.items() if isinstance(kind, str)), None)
    if unclear is None:
        return None
    return Unclear(f"'{unclear}' may be {told[unclear]} of the right choice; write its letter (A, B, …) there instead")


def choices_of(row: Mapping[str, Any], columns: Sequence[str]) -> list[Choice] | None:
    """The choices of a row; None where it has fewer than two, or they cannot be read."""
    found = _within(row.get(columns[0])) if len(columns) == 1 else [(_mark_of(name), row.get(name)) for name in columns]
    while found and _is_blank(found[-1][1]):  # questions with four choices among those with five
        found.pop()
    if found is None or not _FEWEST <= len(found) <= _MOST:
        return None
    if any(_is_blank(text) or isinstance(text, bool) or not isinstance(text, str | int | float) for _, text in found):
        return None
    texts = _without_letters([str(text).strip() for _, text in found])
    marks = [mark for mark, _ in found]
    return [
        Choice(str(mark).strip() if mark is not None else letter, text)
        for mark, text, letter in zip(marks, texts, ascii_uppercase, strict=False)
    ]


def names_choices(question: str, choices: Sequence[Choice]) -> bool:
    """Whether a question lists its choices itself."""
    return bool(_NAMES_CHOICES.search(question)) and all(one.text in question for one in choices)


def _choice_columns(columns: Collection[str]) -> tuple[str, ...] | None:
    """The column with all choices, or those with one each: `A` to `D`, `option1` to `option4`, `opa` to `opd`."""
    whole = next((name for name in CHOICES if name in columns), None)
    if whole is not None:
        return (whole,)
    stems: dict[tuple[str, bool], dict[int, str]] = {}
    for name in columns:
        match = _OWN_COLUMN.fullmatch(name)
        if match is not None:
            mark = (match["mark"] or match["letter"]).lower()
            number = int(mark) if mark.isdigit() else ord(mark) - ord("a")
            stems.setdefault((str(match["stem"]).lower(), mark.isdigit()), {})[number] = name
    for (_, is_number), of in stems.items():
        in_order = sorted(of)
        if len(of) >= _FEWEST and in_order[0] <= is_number and in_order[-1] - in_order[0] == len(of) - 1:
            return tuple(of[number] for number in in_order)
    return None


def _mark_of(column: str) -> str:
    match = _OWN_COLUMN.fullmatch(column)
    return (match["mark"] or match["letter"]).upper() if match else column


def _within(cell: Any) -> list[tuple[Any, Any]] | None:
    """(mark, text) of every choice in a cell; no mark where the cell has none."""
    if isinstance(cell, str):
        parsed = _parsed(cell)
        return _in_text(cell) if parsed is None else _within(parsed)
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


def _parsed(text: str) -> Any:
    """What JSON or a Python list in a text says, as CSV files have them; None where it is neither."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list | dict) else None
    return None


def _in_text(text: str) -> list[tuple[Any, Any]] | None:
    """Choices one behind another in a text: `a ) 38 , b ) 27.675`."""
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
    """Texts without the letters that stand in all of them: `A) 21`, `(B) 22`."""
    own = [
        re.match(rf"\(?{letter}\s?[).:]\s*(?=\S)", one, re.I)
        for letter, one in zip(ascii_uppercase, texts, strict=False)
    ]
    return [one[match.end() :] if match else one for one, match in zip(texts, own, strict=True)] if all(own) else texts


def _told_by(cells: Sequence[tuple[Any, Sequence[Choice]]], labelled: bool) -> tuple[Kind, int] | str | None:
    """How most of these cells tell the right choice; a text where they can be read in two ways, None where in none.

    `labelled`: what choices are called stands in the rows and not in the names of columns, so that it wins over places.
    """
    base = _base(cells)
    found = {kind: [_place(cell, choices, kind, base) for cell, choices in cells] for kind in _TELLS}
    fits = {kind: sum(place is not None for place in places) for kind, places in found.items()}
    best = max(fits.values())
    if 2 * best <= len(cells):
        return None
    kinds = [kind for kind in _TELLS if fits[kind] == best]
    numbered = any(one.mark.isdigit() for _, choices in cells for one in choices)
    if "place" in kinds and not numbered and all(isinstance(cell, int) for cell, _ in cells):
        return "place", base  # a number beside choices that are texts
    if labelled and "letter" in kinds and "place" in kinds:
        kinds.remove("place")
    if any(found[kind] != found[kinds[0]] for kind in kinds[1:]):
        return " or ".join({"letter": "the letter", "text": "the text", "place": "the place"}[kind] for kind in kinds)
    return kinds[0], base


def _base(cells: Iterable[tuple[Any, Sequence[Choice]]]) -> int:
    """What places are counted from: 1 where one is the number of choices and none is 0."""
    seen: Counter[str] = Counter()
    for cell, choices in cells:
        number = _number(cell)
        seen["zero"] += number == 0
        seen["last"] += number == len(choices)
    return int(bool(seen["last"]) and not seen["zero"])


def _number(cell: Any) -> int | None:
    if isinstance(cell, bool):
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return (
        int(cell) if isinstance(cell, int) or (isinstance(cell, str) and re.fullmatch(r"\s*\d{1,2}\s*", cell)) else None
    )


def _place(cell: Any, choices: Sequence[Choice], kind: Kind, base: int) -> int | None:
    """Which choice a cell means, read as this kind; None where it means none, or several."""
    if isinstance(cell, list | tuple):
        cell = cell[0] if len(cell) == 1 else None
    if cell is None or isinstance(cell, bool):
        return None
    if kind == "place":
        number = _number(cell)
        return number - base if number is not None and base <= number < len(choices) + base else None
    text = " ".join(str(cell).split()).casefold()
    plain = [" ".join(one.text.split()).casefold() for one in choices]
    if kind == "text":
        return plain.index(text) if plain.count(text) == 1 else None
    marks = [one.mark.casefold() for one in choices]
    named = _SAYS.fullmatch(text)
    if named is None or (named[2] is not None and named[2] not in plain):
        return None
    return marks.index(named[1]) if marks.count(named[1]) == 1 else None


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value
