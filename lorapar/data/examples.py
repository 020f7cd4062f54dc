"""Make examples from the rows of one source: check and name each row."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from lorapar.answers import References, distinct, is_several
from lorapar.config import SYSTEMS
from lorapar.data.cells import BadRowError, Cells, as_begun
from lorapar.data.choice_lists import choice_columns
from lorapar.data.conversation import (
    MEDIA_COLUMNS,
    Conversation,
    Messages,
    is_answered,
    messages_in,
    read_conversation,
    system_text,
    turns_in,
    turns_of_pairs,
)
from lorapar.data.mapping import Mapped, plain_name
from lorapar.data.readers import RawRow
from lorapar.data.reference_pattern import reference_finder
from lorapar.data.tests_column import BEFORE_TESTS, setup_of, tests_of
from lorapar.data.tool_calls import holds_a_call, lists_all, names_any, tool_names
from lorapar.errors import BadInputError, nearest
from lorapar.records import Example, System

_THOUSANDS = re.compile(r"[-+]?\$?\d{1,3}(,\d{3})+(\.\d+)?")
_HISTORY = "history"
_CHOSEN = re.compile(r"\(?(\d{1,2}|[A-Za-z])[).]?")
_LONG = 40
"""The length of a context that does not occur in a question by chance."""
_LETTERED = re.compile(r"(?<!\w)[Aa1][).:]")
"""How a question begins the list of its choices."""


@dataclass(frozen=True)
class Made:
    """The examples of a source, and notes about its rows."""

    examples: list[Example]
    """The examples in the order of the source, with unique ids, not yet split."""
    left_out: list[str] = field(default_factory=list)
    """Why rows were left out, one line each (only where `data.bad_rows` allows it)."""
    blank_texts: dict[str, int] = field(default_factory=dict)
    """The number of cells, by column, with a text such as `nan` that counts as empty."""
    notes: list[str] = field(default_factory=list)
    """Lines about how rows were read."""


def make_examples(rows: list[RawRow], mapped: Mapped, *, strict: bool, systems: Sequence[System] = SYSTEMS) -> Made:
    """The examples of rows; raises BadInputError for a bad row with `strict`, otherwise leaves it out.

    `systems` are the allowed names in a column with the true system.
    """
    builder = _Builder(mapped, Cells(rows), systems)
    examples: list[Example] = []
    left_out: list[str] = []
    questions: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, row in rows:
        try:
            example = builder.example(where, row)
            _claim(questions, same_text(example.asked), where, "asks the same question as")
            _claim(names, example.id, where, f"has the same id '{example.id}' as")
        except BadRowError as error:
            if strict:
                raise BadInputError(f"{error}; fix the row, or set data.bad_rows=leave_out") from None
            left_out.append(str(error))
        else:
            examples.append(example)
    notes = [f"{count:,} of {len(rows):,} rows {what}" for what, count in builder.seen.items()]
    notes += builder.warnings(len(rows))
    notes += [
        f"{count:,} of {len(rows):,} rows have '{text}' as their '{column}', taken for that text; empty the cell where "
        "nothing is meant"
        for (column, text), count in builder.cells.doubtful.items()
    ]
    notes += [
        f"{count:,} of {len(rows):,} rows have a list written as a text in '{column}': any of its texts is right, "
        "and the text as it stands"
        for column, count in builder.cells.written_lists.items()
    ]
    notes += _lists_among([example.reference for example in examples], len(rows))
    notes += [
        f"{count:,} of {len(rows):,} rows have '|' in '{column}', taken for a part of the text; where any of several "
        'answers is right, write ["one", "another"]'
        for column, count in builder.cells.barred.items()
        if count
    ]
    return Made(examples, left_out, blank_texts=dict(builder.cells.blank_texts), notes=notes)


def _lists_among(references: Sequence[References | None], rows: int) -> list[str]:
    """A line about references that are several values, all of which an answer needs, and not a point or an interval."""
    listed = [one for one in references if isinstance(one, str) and is_several(one) and not _is_a_point(one)]
    if not listed:
        return []
    return [
        f"{len(listed):,} of {rows:,} rows have several values as one reference (the first: '{listed[0][:40]}'): an "
        "answer needs all of them, and in their order where answers is exact; where any one is right, write "
        '["one", "another"]'
    ]


def _is_a_point(reference: str) -> bool:
    """Whether a pair of brackets, one of them round, is around a whole reference: `(1, 2)` or `[0, 1)`, no list."""
    text = reference.strip(" $")
    depths = list(accumulate((one in "([{") - (one in ")]}") for one in text))
    return 0 not in depths[:-1] and (text[:1] == "(" or (text[:1] == "[" and text[-1:] == ")"))


def _claim(taken: dict[str, str], key: str, where: str, complaint: str) -> None:
    if key in taken:
        raise BadRowError(f"{where}: {complaint} {taken[key]}")
    taken[key] = where


class _Builder:
    """Makes the examples of rows."""

    def __init__(self, mapped: Mapped, cells: Cells, systems: Sequence[System]) -> None:
        mapping = mapped.columns
        self._systems = {plain_name(system): system for system in systems}
        self.cells = cells
        self.seen: Counter[str] = Counter()
        """Counts of rows by how they were read, in words."""
        self._bare = 0
        """Rows whose short answer is their answer."""
        self._mapping = mapping
        self._recognised = mapped.description is not None
        self._made = mapped.made
        self._find = reference_finder(mapping.reference_pattern) if mapping.reference_pattern else None

    def example(self, where: str, row: dict[str, Any]) -> Example:
        """The example of a row; raises BadRowError."""
        mapping, text = self._mapping, self.cells.text
        self._look_for_more(where, row)
        if self._made is not None:
            row = self._made.read(where, row, self.cells)
        conversation = self._conversation(where, row)
        question, answer = (conversation.question, conversation.answer) if conversation else self._texts(where, row)
        if not row.get("tools") and holds_a_call(answer):
            self.seen["call a tool in a text, which is learned as a text"] += 1
        example = Example(
            id="",
            question=question,
            answer=answer,
            reference=self._reference(where, row, answer),
            tests=self._tests(where, row),
            known_system=self._system(where, row, mapping.system),
            system_message=self._system_message(where, row) or (conversation.system_message if conversation else None),
            history=(conversation.history or None) if conversation else None,
        )
        name = text(where, row, mapping.id) or hashlib.sha256(same_text(example.asked).encode()).hexdigest()[:16]
        return example.model_copy(update={"id": name})

    def _tests(self, where: str, row: dict[str, Any]) -> str | None:
        """The tests of a row, behind the imports and the code that other columns have for them."""
        column, used = self._mapping.tests, self._mapping.model_dump().values()
        if column is None:
            return None
        before = [self._setup(where, row, one) for one in BEFORE_TESTS if one not in used]
        return tests_of(where, column, self.cells.texts(where, row, column), before)

    def _setup(self, where: str, row: dict[str, Any], column: str) -> str:
        """The code of a column before tests; empty, and counted, where it is none."""
        try:
            found = setup_of(self.cells.texts(where, row, column))
        except BadRowError:
            found = None
        if found is None:
            self.seen[f"have something in '{column}' that is not Python, which is not read"] += 1
        return found or ""

    def _look_for_more(self, where: str, row: dict[str, Any]) -> None:
        """Refuse a row with images or sounds, and count rows whose list of tools is ignored."""
        used = self._mapping.model_dump().values()
        for column in MEDIA_COLUMNS:
            if not row.get(column) or column in used:
                continue
            if self._recognised:
                kind = column.removesuffix("s")
                article = "a" if kind == "video" else "an"
                raise BadRowError(f"{where}: '{column}' holds {article} {kind}, and only text is trained")
            self.seen[f"have something in '{column}', which is not read"] += 1
        if self._recognised and self._made is None and str(row.get("label")).strip().casefold() == "false":
            raise BadRowError(f"{where}: 'label' is false, so '{self._mapping.answer}' is what must not be written")
        if self._recognised and self._made is None:
            self._refuse_numbered_choices(where, row)
        lists = row.get("tools") not in (None, "", "[]", []) and "tools" not in used
        if lists:
            calls = holds_a_call(self._last_text(row))
            if calls and not self._tells_of(row):
                self._refuse_unknown_tools(where, row)
            done = "call some in a text" if calls else "call none"
            self.seen[f"list 'tools' and {done}; the column is not read"] += 1

    def _tells_of(self, row: dict[str, Any]) -> bool:
        """Whether the model is told of the tools of a row.

        A system message or a conversation that has one of their names as a word tells of them; a question, its context
        or turns before it must list them all, since they may have a word such as `search` by chance.
        """
        mapping, names = self._mapping, tool_names(row["tools"])
        turns = (turns_in(row.get(mapping.messages)) or [])[:-1] if mapping.messages else []
        asked = " ".join(str(row.get(column)) for column in (mapping.question, mapping.context, _HISTORY) if column)
        return (
            (not names and mapping.messages is not None)
            or names_any(f"{turns} {row.get(mapping.system_message or '')}", names)
            or lists_all(asked, names)
        )

    def _refuse_unknown_tools(self, where: str, row: dict[str, Any]) -> None:
        """Refuse a tool call of which the model cannot know, where the settings do not name the columns."""
        if not self._recognised:
            return
        mapping = self._mapping
        parts = ("messages",) if mapping.messages else ("question", "answer")
        named = ", ".join(f"data.columns.{part}={getattr(mapping, part)}" for part in parts)
        writes = isinstance(row["tools"], str) and not mapping.messages
        what = (
            " and data.columns.context=tools to write them below the question" if writes else " to train on it anyway"
        )
        column = mapping.messages or mapping.answer
        raise BadRowError(
            f"{where}: '{column}' holds a tool call, and the model is not told of 'tools'; set {named}{what}"
        )

    def _last_text(self, row: dict[str, Any]) -> str:
        """The answer of a row as it stands there, or the last turn of its conversation."""
        turns = turns_in(row.get(self._mapping.messages)) if self._mapping.messages else None
        last = turns[-1] if turns else {}
        found = last.get("content", last.get("value")) if turns else row.get(self._mapping.answer)
        return str(found).strip()

    def _refuse_numbered_choices(self, where: str, row: dict[str, Any]) -> None:
        """Refuse an answer that is the number or letter of a choice, if the question does not list the choices."""
        used = self._mapping.model_dump().values()
        columns = choice_columns([name for name, cell in row.items() if cell and name not in used])
        if columns is None or self._mapping.messages:
            return
        answer = str(row.get(self._mapping.answer)).strip()
        if not _CHOSEN.fullmatch(answer) or _LETTERED.search(str(row.get(self._mapping.question))):
            self.seen[f"have something in '{columns[0]}', which is not read"] += 1
            return
        places = "', '".join(columns)
        raise BadRowError(
            f"{where}: '{self._mapping.answer}' is '{answer}', the place of a choice in '{places}', and the question "
            "does not name the choices; write them into the question, or the answer in words"
        )

    def _earlier(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The turns of a column `history`, as pairs of question and answer (LLaMA-Factory) or as messages."""
        cell = row.get(_HISTORY)
        if not cell or not self._recognised or self._mapping.messages:
            return []
        turns = messages_in(cell) or turns_of_pairs(cell)
        if turns is None:
            self.seen[f"have something in '{_HISTORY}', which is not read"] += 1
            return []
        self.seen[f"have turns before the question in '{_HISTORY}'"] += 1
        return turns

    def _conversation(self, where: str, row: dict[str, Any]) -> Conversation | None:
        """The conversation of a row, in one column or in those of question and answer; None: both hold texts."""
        mapping = self._mapping
        if mapping.messages is not None:
            messages = turns_in(row.get(mapping.messages))
            if messages is None:
                raise BadRowError(
                    f"{where}: '{mapping.messages}' holds no messages (role and content, or from and value)"
                )
            if not is_answered(messages) and self.cells.texts(where, row, mapping.reference):
                raise BadRowError(
                    f"{where}: '{mapping.messages}' ends with a turn of the user, and '{mapping.reference}' may answer "
                    "that one or the one before; end it with the assistant's answer, or put such rows into another file"
                )
            return read_conversation(where, {mapping.messages: messages}, self.seen)
        asked, answered = (messages_in(row.get(column)) for column in (mapping.question, mapping.answer))
        earlier = self._earlier(row)
        if asked is None and answered is None:
            if not earlier:
                return None
            asked = [{"role": "user", "content": self._texts(where, row)[0]}]
        elif asked is None:
            asked = [{"role": "user", "content": self._asked(where, row)}]
        else:
            asked = self._with_context(where, row, asked)
        asked = [*earlier, *asked]
        answered = answered or [{"role": "assistant", "content": self._needed(where, row, mapping.answer, "answer")}]
        return read_conversation(where, {mapping.question: asked, mapping.answer: answered}, self.seen)

    def _with_context(self, where: str, row: dict[str, Any], asked: Messages) -> Messages:
        """Messages that end with a question, with the context below it; raises BadRowError for answered ones."""
        if is_answered(asked) and self._mapping.answer == self._mapping.reference:
            raise BadRowError(
                f"{where}: '{self._mapping.question}' ends with a turn of the assistant, and '{self._mapping.answer}' "
                "may answer the same or another question; take that turn out, or put such rows into another file"
            )
        context = self._context(where, row)
        said = [text for one in asked for key in ("content", "value") if isinstance(text := one.get(key), str)]
        return (
            asked
            if not context or any(context in text for text in said)
            else [*asked, {"role": "user", "content": context}]
        )

    def _context(self, where: str, row: dict[str, Any]) -> str:
        """The context of a question; for recognised columns except `input`, also reads lists that CSV has as texts."""
        written = self._recognised and self._mapping.context != "input"
        return self.cells.paragraphs(where, row, self._mapping.context, written=written)

    def _asked(self, where: str, row: dict[str, Any]) -> str:
        """The question with its context below it, unless it contains that already."""
        question = self._needed(where, row, self._mapping.question, "question")
        context = self._context(where, row)
        if self._recognised and len(context) >= _LONG and context in question:
            self.seen[
                f"have what is in '{self._mapping.context}' in '{self._mapping.question}', too: it is asked once"
            ] += 1
            return question
        return f"{question}\n\n{context}" if context else question

    def _texts(self, where: str, row: dict[str, Any]) -> tuple[str, str]:
        question = self._asked(where, row)
        answer = self._needed(where, row, self._mapping.answer, "answer")
        begun = as_begun(answer, row.get(self._mapping.answer))
        # A completion continues its prompt, and code needs its indentation; any other leading blank is a mistake.
        is_part = self._mapping.answer == "completion" or re.match(r"[ \t]+\S.*\n", begun)
        return question, begun if is_part else answer

    def _system_message(self, where: str, row: dict[str, Any]) -> str:
        cell = row.get(self._mapping.system_message or "")
        return (system_text(cell) or "").strip() or self.cells.text(where, row, self._mapping.system_message)

    def _needed(self, where: str, row: dict[str, Any], column: str, part: str) -> str:
        if part == "answer" and column == self._mapping.reference:  # several short answers: the first is trained
            text = next(iter(self.cells.references(where, row, column, counted=False)), "")
        else:
            text = self.cells.text(where, row, column)
        short = "" if text or part != "answer" or not self._recognised else self._short_answer(where, row)
        if short:
            self.seen[f"have nothing in '{column}': what is in '{self._mapping.reference}' is their answer"] += 1
            self._bare += 1
            return short
        if not text:
            article = "an" if part == "answer" else "a"
            if not {self._mapping.question, self._mapping.answer} & row.keys() and row:
                raise BadRowError(
                    f"{where}: a row of another format: it has {', '.join(row)} and neither "
                    f"'{self._mapping.question}' nor '{self._mapping.answer}'; such rows belong in another file, "
                    "named beside this one in data.sources"
                )
            raise BadRowError(f"{where}: a row without {article} {part} ('{column}' is empty or missing)")
        return text

    def warnings(self, rows: int) -> list[str]:
        """What may not be meant: most rows teach their short answer alone."""
        if 2 * self._bare <= rows:
            return []
        return [
            f"most rows have no '{self._mapping.answer}', so bare short answers are learned; if that is not meant, "
            "take those rows out or name the column with the whole answers in data.columns.answer"
        ]

    def _short_answer(self, where: str, row: dict[str, Any]) -> str:
        """The first short answer of a row; empty where there is none."""
        return next(iter(self.cells.references(where, row, self._mapping.reference, counted=False)), "")

    def _reference(self, where: str, row: dict[str, Any], answer: str) -> References | None:
        """The reference from the column, or else from the pattern in the answer; several are a tuple."""
        found = distinct(map(_without_commas, self.cells.references(where, row, self._mapping.reference)))
        if not found and self._find is not None:
            found = distinct([_without_commas(self._find(answer.strip()))])
        return found if len(found) > 1 else next(iter(found), None)

    def _system(self, where: str, row: dict[str, Any], column: str | None) -> System | None:
        text = self.cells.text(where, row, column)
        plain = plain_name(text)
        if not plain or plain in self._systems:
            return self._systems.get(plain)
        names = list(self._systems.values())
        known = nearest(plain, names)
        raise BadRowError(f"{where}: '{column}' is '{text}'{known}; use {' or '.join(names)}")


def _without_commas(reference: str) -> str:
    """`1,000` as `1000`; anything that is not one number stays unchanged."""
    reference = reference.strip()
    return reference.replace(",", "") if _THOUSANDS.fullmatch(reference) else reference


def same_text(text: str) -> str:
    """The text with single spaces: texts that differ only in white space are one question."""
    return " ".join(text.split())
