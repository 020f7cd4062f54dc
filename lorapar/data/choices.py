"""Rows with choices, as exams have them: the question is asked with lettered choices, and a letter is the answer.

Known are MMLU, ARC, HellaSwag, RACE, MedQA, AQuA and the like: choices in one column (a list, a structure, either as
text) or each in a column of its own. Which of them is right may be said by its letter, its text or its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from lorapar.data.cells import BadRowError, Cells, as_text
from lorapar.data.choice_lists import Choice, choice_columns, choice_count, choices_of, listed_marks, with_choices

CONTEXTS = (
    *("context.contexts", "context.sentences", "passages.passage_text"),
    *("context", "passage", "article", "support", "premise", "body", "paragraph", "story", "dialogue"),
)
"""Columns with what a question is about; PubMedQA, HotpotQA and MS MARCO have structures of lists."""
_QUESTIONS = (
    *("question.stem", "question", "question_stem", "prompt", "query", "problem", "stem", "ctx", "sentence", "goal"),
    *("startphrase", "input", "q"),
)
_RIGHT = (
    *("answerKey", "answerkey", "answer_key", "answer_idx", "answer_index", "answer_letter"),
    *("correct_option", "correct_choice", "correct_answer", "correct_index", "correct", "right", "cop"),
    *("gold", "label", "target", "answer"),
)
_ANSWERS = "answers"
"""Choices of ReClor, and right answers of others; only a place or a letter says that they are choices."""
_NO_PLACES = ("correct_answer", "target", "answer")
"""Of `_RIGHT`, those that may be answers themselves."""
_SAYS = re.compile(
    r"(?:(?:the )?(?:right |correct )?(?:answer|option|choice)[\s_:]*(?:is )?)?\(?([a-z]|\d{1,2})[).:]?(?:\s+(.+))?",
    re.DOTALL,
)
_WHOLE = re.compile(r"^(-?\d+)\.0+$")

Kind = Literal["letter", "text", "place"]
_TELLS: dict[Kind, str] = {"letter": "names it", "text": "is its text", "place": "is its place, counted from {base}"}


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
    listed: bool = False
    """Whether most questions list their choices themselves."""

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
        asked = f"'{self.question}'{context} and the choices in {where}, lettered from A, are the question"
        if self.listed:
            asked = f"'{self.question}'{context} is the question, which lists the choices in {where} itself"
        return (
            f"questions with choices: {asked}, and the letter of the right one ('{self.answer}' {tells}) is both "
            "answer and reference"
        )

    def read(self, where: str, row: dict[str, Any], cells: Cells) -> dict[str, Any]:
        """The row with the lettered question and the right letter; raises BadRowError."""
        question = cells.text(where, row, self.question)
        own = {name: cells.text(where, row, name) for name in self.columns} if self.columns[1:] else row
        choices = choices_of(own, self.columns)
        if not question or choices is None:
            lacks = "choices" if question else "a question"
            places = ", ".join(f"'{name}'" for name in (self.columns if question else [self.question]))
            raise BadRowError(
                f"{where}: a row without {lacks} ({places} is empty, missing or no list of two or more texts)"
            )
        right = self._right(where, row, choices)
        context = cells.paragraphs(where, row, self.context)
        marks = listed_marks(question, choices)
        asked = with_choices(question, context, [] if marks else [one.text for one in choices])
        return {**row, self.question: asked, self.answer: (marks or ascii_uppercase)[right]}

    def _right(self, where: str, row: dict[str, Any], choices: Sequence[Choice]) -> int:
        cell = row.get(self.answer)
        if _is_hidden(cell, choices):
            raise BadRowError(f"{where}: a row without an answer ('{self.answer}' is {cell!r}: test sets hide it)")
        place = _place(cell, choices, self.kind, self.base)
        if place is None:
            marks = ", ".join(one.mark for one in choices)
            how = {
                "letter": f"the choices are {marks}",
                "text": "no choice, or more than one, has this text",
                "place": f"the {len(choices)} choices are counted from {self.base}, as most rows show",
            }[self.kind]
            raise BadRowError(f"{where}: '{self.answer}' is {cell!r:.60}, which is none of the row's choices: {how}")
        return place


@dataclass(frozen=True)
class Unclear:
    """Rows with choices of which it cannot be told which one is right."""

    message: str


def find_choices(
    columns: Collection[str], rows: Sequence[Mapping[str, Any]], every: Callable[[], Iterable[Mapping[str, Any]]]
) -> ChoiceColumns | Unclear | None:
    """Where most of these rows have choices, and what says which is right; None where they have none.

    `every` gives all rows of the source: what places are counted from may show in few of them.
    """
    question = next((name for name in _QUESTIONS if name in columns), None)
    held = choice_columns(columns) or ((_ANSWERS,) if _ANSWERS in columns else None)
    if question is None or held is None or question in held:
        return None
    asked = [row for row in rows if isinstance(row.get(question), str)]
    read = [(row, choices) for row in asked if (choices := choices_of(row, held)) is not None]
    if not rows or 2 * len(read) <= len(rows):
        return None
    cells = {
        name: [(cell, choices) for row, choices in read if not _is_hidden(cell := row.get(name), choices)]
        for name in _RIGHT
        if name in columns and name not in held and not (held == (_ANSWERS,) and name in _NO_PLACES)
    }
    numbered = [name for name, some in cells.items() if any(_number(cell) is not None for cell, _ in some)]
    bases = _bases(numbered, held, every()) if numbered else {}
    readings = {name: _reading(some, len(held) == 1, bases.get(name)) for name, some in cells.items() if some}
    clear = {name: reading for name, reading in readings.items() if isinstance(reading, tuple)}
    if clear:
        answer = min(clear, key=lambda name: list(_TELLS).index(clear[name][0]))  # a letter is told from any other
        context = next((name for name in CONTEXTS if name in columns), None)
        listed = sum(listed_marks(row[question], choices) is not None for row, choices in read)
        return ChoiceColumns(question, context, held, answer, *clear[answer], listed=2 * listed > len(read))
    unclear = next((name for name, reading in readings.items() if isinstance(reading, str)), None)
    if unclear is None:
        return None
    return Unclear(f"'{unclear}' {readings[unclear]}; write its letter (A, B, …) there instead")


def _reading(
    cells: Sequence[tuple[Any, Sequence[Choice]]], labelled: bool, base: int | None
) -> tuple[Kind, int] | str | None:
    """How most of these cells tell the right choice; a text where they can be read in two ways, None where in none.

    `labelled`: what choices are called stands in the rows and not in the names of columns, so that it wins over places.
    `base` is what places are counted from, where the rows show it.
    """
    found = {kind: [_place(cell, choices, kind, base or 0) for cell, choices in cells] for kind in _TELLS}
    fits = {kind: sum(place is not None for place in places) for kind, places in found.items()}
    best = max(fits.values())
    if 2 * best <= len(cells):
        return None
    kinds = [kind for kind in _TELLS if fits[kind] == best]
    digits = any(one.mark.isdigit() for _, choices in cells for one in choices)
    if "place" in kinds and not digits and all(isinstance(cell, int | float) for cell, _ in cells):
        kinds = ["place"]  # a number beside choices that are texts
    elif labelled and "letter" in kinds and "place" in kinds:
        kinds.remove("place")
    if any(found[kind] != found[kinds[0]] for kind in kinds[1:]):
        names: dict[Kind, str] = {"letter": "the letter", "text": "the text", "place": "the place"}
        return f"may be {' or '.join(names[kind] for kind in kinds)} of the right choice"
    if kinds[0] == "place" and base is None:
        return "is the place of the right choice, and the rows do not show whether it is counted from 0 or from 1"
    return kinds[0], base or 0


def _bases(names: Collection[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, int | None]:
    """By column, what places are counted from: that of 0 and 1 with which more of the rows name a choice, if any."""
    first: Counter[str] = Counter()
    last: Counter[str] = Counter()
    for row in rows:
        numbers = {name: number for name in names if (number := _number(row.get(name))) is not None}
        count = choice_count(row, columns) if any(number != 1 for number in numbers.values()) else 0
        for name, number in numbers.items() if count else ():
            first[name] += number == 0
            last[name] += number == count
    return {name: None if first[name] == last[name] else int(last[name] > first[name]) for name in names}


def _number(cell: Any) -> int | None:
    text = _compared(cell)
    return int(text) if text is not None and re.fullmatch(r"\d{1,2}", text) else None


def _compared(cell: Any) -> str | None:
    """A cell as texts are compared: no capitals, one space between words, and `2.0` as 2; None where it is no text."""
    text = as_text(cell)
    return None if text is None else _WHOLE.sub(r"\1", " ".join(text.split()).casefold())


def _is_hidden(cell: Any, choices: Iterable[Choice]) -> bool:
    """Whether a cell names no choice at all: it is empty, or the -1 of test sets."""
    text = _compared(cell)
    return cell in ([], ()) or text == "" or (text == "-1" and all(one.text != "-1" for one in choices))


def _place(cell: Any, choices: Sequence[Choice], kind: Kind, base: int) -> int | None:
    """Which choice a cell means, read as this kind; None where it means none, or several."""
    if isinstance(cell, list | tuple):
        cell = cell[0] if len(cell) == 1 else None
    text = _compared(cell)
    if not text:
        return None
    if kind == "place":
        number = _number(cell)
        return number - base if number is not None and base <= number < len(choices) + base else None
    plain = [_compared(one.text) for one in choices]
    if kind == "text":
        return plain.index(text) if plain.count(text) == 1 else None
    marks = [_compared(one.mark) for one in choices]
    named = _SAYS.fullmatch(text)
    if named is None or (named[2] is not None and named[2] not in plain):
        return None
    return marks.index(named[1]) if marks.count(named[1]) == 1 else None
