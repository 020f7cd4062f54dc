"""Rows with multiple-choice questions: the question is asked with lettered choices, and a letter is the answer.

Known are MMLU, ARC, HellaSwag, RACE, MedQA, AQuA and the like: choices in one column (a list or structure, possibly as
text) or each in its own column. The right choice may be given by its letter, its text or its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from lorapar.data.cells import BadRowError, Cells, as_text, check_characters
from lorapar.data.choice_lists import Choice, choice_columns, choice_count, choices_of, listed_marks, with_choices
from lorapar.data.written import read_written

CONTEXTS = (
    *("context.contexts", "context.sentences", "passages.passage_text"),
    *("context", "passage", "article", "support", "premise", "body", "paragraph", "story", "dialogue"),
)
"""Columns with a question's context; in PubMedQA, HotpotQA and MS MARCO they hold structures of lists."""
_QUESTIONS = (
    *("question.stem", "question", "question_stem", "prompt", "query", "problem", "stem", "ctx", "sentence", "goal"),
    *("startphrase", "input", "q"),
)
_RIGHT = (
    *("answerKey", "answerkey", "answer_key", "answer_idx", "answer_index", "answer_letter"),
    *("correct_option", "correct_choice", "correct_answer", "correct_answer_id", "correct_answer_index"),
    *("correct_answer_idx", "correct_index", "correct_idx", "correct_id", "correct", "right", "cop"),
    *("gold", "label", "target", "answer"),
)
_ANSWERS = "answers"
"""Choices of ReClor and QuAIL, and right answers of others; a column of correct places shows that they are choices."""
_NO_PLACES = ("target", "answer")
"""Columns of `_RIGHT` that may be answers themselves."""
_CORRECT = re.compile(r"correct(?:[ _]?(?:answers?|options?|choices?|label|letter|key|index|idx|id)(?:[ _].*)?)?")
_WRONG = re.compile(r"incorrect|wrong|distractor")
_CLEAR = 10
"""How many rows must show the first place for each row that shows the other: that one counts as a mistake."""
_SAYS = re.compile(
    r"(?:(?:the )?(?:right |correct )?(?:answer|option|choice)[\s_:]*(?:is )?)?\(?([a-z]|\d{1,2})[).:]?(?:\s+(.+))?",
    re.DOTALL,
)
_WHOLE = re.compile(r"^(-?\d+)\.0+$")

Kind = Literal["letter", "text", "place"]
_TELLS: dict[Kind, str] = {"letter": "names it", "text": "is its text", "place": "is its place, counted from {base}"}


@dataclass(frozen=True)
class ChoiceColumns:
    """The columns of question and choices in a source's rows, and how they give the right one."""

    question: str
    context: str | None
    columns: tuple[str, ...]
    """The column with all choices, or the columns with one each."""
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
        """A description of what was recognised, for people."""
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
        for one in choices or ():
            check_characters(f"{where}: '{self.columns[0]}'", one.text)
        if not question or choices is None:
            lacks = "choices" if question else "a question"
            places = ", ".join(f"'{name}'" for name in (self.columns if question else [self.question]))
            raise BadRowError(
                f"{where}: a row without {lacks} ({places} is empty, missing or no list of two or more texts)"
            )
        right = self._right(where, row, choices)
        context = cells.paragraphs(where, row, self.context, written=True)
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
                "letter": f"the choices are {marks}, and a text beside a letter has to be the one of that letter",
                "text": "no choice, or more than one, has this text",
                "place": f"the {len(choices)} choices are counted from {self.base}, as most rows show",
            }[self.kind]
            raise BadRowError(f"{where}: '{self.answer}' is {cell!r:.60}, which is none of the row's choices: {how}")
        return place


@dataclass(frozen=True)
class Unclear:
    """Rows with choices whose right one cannot be determined."""

    message: str


def find_choices(
    columns: Collection[str], rows: Sequence[Mapping[str, Any]], every: Callable[[], Iterable[Mapping[str, Any]]]
) -> ChoiceColumns | Unclear | None:
    """The columns of choices and of the right one, if most rows have choices; None otherwise.

    `every` returns all rows of the source: the first place, 0 or 1, may show only in a few of them.
    """
    question = next((name for name in _QUESTIONS if name in columns), None)
    held = choice_columns(columns) or ((_ANSWERS,) if _ANSWERS in columns else None)
    if question is None or held is None or question in held:
        return None
    asked = [row for row in rows if isinstance(row.get(question), str)]
    read = [(row, choices) for row in asked if (choices := choices_of(row, held)) is not None]
    beside = _correct_beside_answers(columns, rows) if held == (_ANSWERS,) else None
    if not rows or 2 * len(read) <= len(rows):
        return _names_none(beside, question)
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
        answer = min(clear, key=lambda name: list(_TELLS).index(clear[name][0]))  # a letter is unambiguous
        context = next((name for name in CONTEXTS if name in columns), None)
        listed = sum(listed_marks(row[question], choices) is not None for row, choices in read)
        return ChoiceColumns(question, context, held, answer, *clear[answer], listed=2 * listed > len(read))
    unclear = next((name for name, reading in readings.items() if isinstance(reading, str)), None)
    if unclear is None:
        return _names_none(beside, question)
    return Unclear(f"'{unclear}' {readings[unclear]}; write its letter (A, B, …) there instead")


def _fitting(cells: Sequence[tuple[Any, Sequence[Choice]]], base: int) -> int:
    """How many cells are places of choices, counted from `base`."""
    return sum(_place(cell, choices, "place", base) is not None for cell, choices in cells)


def _correct_beside_answers(columns: Collection[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A column that gives the right one of `answers`; None with columns of wrong answers, or where it judges one."""
    if any(_WRONG.match(name) for name in columns):
        return None
    judges = {name for name in columns if any(isinstance(row.get(name), bool) for row in rows)}
    return next((name for name in columns if _CORRECT.fullmatch(name) and name not in judges), None)


def _names_none(beside: str | None, question: str) -> Unclear | None:
    if beside is None:
        return None
    return Unclear(
        f"'{beside}' beside '{_ANSWERS}' says that these are choices, and names none of them by its letter, text or "
        f"place; write the letter there, or set data.columns.question={question} data.columns.answer={beside}"
    )


def _reading(
    cells: Sequence[tuple[Any, Sequence[Choice]]], labelled: bool, base: int | None
) -> tuple[Kind, int] | str | None:
    """How most of these cells give the right choice; a text where two readings fit, None where none fits.

    `labelled`: the marks of choices are in the rows and not in the names of columns, so they win over places. `base` is
    the number of the first place, where the rows show it.
    """
    first = base if base is not None else max((0, 1), key=lambda one: _fitting(cells, one))
    found = {kind: [_place(cell, choices, kind, first) for cell, choices in cells] for kind in _TELLS}
    fits = {kind: sum(place is not None for place in places) for kind, places in found.items()}
    best = max(fits.values())
    if 2 * best <= len(cells):
        return None
    kinds = [kind for kind in _TELLS if _CLEAR * fits[kind] >= (_CLEAR - 1) * best]  # a mistake or two do not count
    if labelled and "letter" in kinds and "place" in kinds:
        kinds.remove("place")
    kinds.sort(key=lambda kind: -fits[kind])
    if any(
        None not in pair and pair[0] != pair[1]
        for kind in kinds[1:]
        for pair in zip(found[kinds[0]], found[kind], strict=True)
    ):
        names: dict[Kind, str] = {"letter": "the letter", "text": "the text", "place": "the place"}
        return f"may be {' or '.join(names[kind] for kind in kinds)} of the right choice"
    if kinds[0] == "place" and base is None:
        return "is the place of the right choice, and the rows do not show whether it is counted from 0 or from 1"
    return kinds[0], base or 0


def _bases(names: Collection[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, int | None]:
    """The number of the first place by column: 0 or 1, as the rows show, or nearly all that show either."""
    first: Counter[str] = Counter()
    last: Counter[str] = Counter()
    for row in rows:
        numbers = {name: number for name in names if (number := _number(row.get(name))) is not None}
        count = choice_count(row, columns) if any(number != 1 for number in numbers.values()) else 0
        for name, number in numbers.items() if count else ():
            first[name] += number == 0
            last[name] += number == count
    return {name: _base(first[name], last[name]) for name in names}


def _base(first: int, last: int) -> int | None:
    clear = max(first, last) >= max(1, _CLEAR * min(first, last))
    return int(last > first) if clear else None


def _only(cell: Any) -> Any:
    """The item of a list with one item (AGIEval has `[0]`), also if written as a text; other cells unchanged."""
    listed = read_written(cell) if isinstance(cell, str) else cell
    return listed[0] if isinstance(listed, list | tuple) and len(listed) == 1 else cell


def _number(cell: Any) -> int | None:
    text = _compared(_only(cell))
    return int(text) if text is not None and re.fullmatch(r"\d{1,2}", text) else None


def _compared(cell: Any) -> str | None:
    """A cell in the form for comparing texts: lower case, single spaces, and `2.0` as 2; None where it is not text."""
    text = as_text(cell)
    return None if text is None else _WHOLE.sub(r"\1", " ".join(text.split()).casefold())


def _is_hidden(cell: Any, choices: Iterable[Choice]) -> bool:
    """Whether a cell hides the choice: it is empty, or -1 as in test sets."""
    text = _compared(_only(cell))
    return cell in ([], ()) or text == "" or (text == "-1" and all(one.text != "-1" for one in choices))


def _place(cell: Any, choices: Sequence[Choice], kind: Kind, base: int) -> int | None:
    """The choice that a cell means, read as this kind; None where it means none or several."""
    if kind == "text":
        return _by_text(cell, choices)
    if kind == "place":
        number = _number(cell)
        return number - base if number is not None and base <= number < len(choices) + base else None
    named = _SAYS.fullmatch(_compared(_only(cell)) or "")
    marks = [_compared(one.mark) for one in choices]
    if named is None or marks.count(named[1]) != 1:
        return None
    place = marks.index(named[1])
    return place if named[2] in (None, _compared(choices[place].text)) else None


def _by_text(cell: Any, choices: Sequence[Choice]) -> int | None:
    """The choice with this text: exactly (Co and CO differ), or else in the form for comparing."""
    for one in (cell, _only(cell)):
        for shown in (as_text, _compared):
            text, texts = shown(one), [shown(choice.text) for choice in choices]
            if text and texts.count(text) == 1:
                return texts.index(text)
    return None
