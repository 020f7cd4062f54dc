"""Which column of a data set plays which part, from the settings or by recognising the columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data.choices import CONTEXTS, ChoiceColumns, Unclear, find_choices
from lorapar.data.column_names import CONVERSATIONS, REFERENCES, USUAL, column_meant, pair_meant, unread, why_not
from lorapar.data.conversation import is_answered, messages_in, system_text, turns_in
from lorapar.data.nested import inner, inner_names, shown_names, with_inner
from lorapar.data.readers import RawRow, is_separated
from lorapar.data.reference_pattern import ANSWER_IS, BOXED, GSM8K, reference_finder
from lorapar.data.right_and_wrong import RightAndWrong, find_right_and_wrong
from lorapar.data.tests_column import BEFORE_TESTS
from lorapar.data.written import texts_in
from lorapar.data.yes_no import YesNoColumns, find_yes_no
from lorapar.errors import BadInputError, nearest

_INSTRUCTION = ColumnMapping(question="instruction", context="input", answer="output")

MAPPINGS: dict[str, ColumnMapping] = {
    "gsm8k": ColumnMapping(reference_pattern=GSM8K),
    "dolly": ColumnMapping(question="instruction", context="context", answer="response"),
    "openplatypus": _INSTRUCTION,
    "codealpaca": _INSTRUCTION,
}
"""Columns of openai/gsm8k, databricks/databricks-dolly-15k, garage-bAInd/Open-Platypus, sahil2801/CodeAlpaca-20k."""

RECOGNISED_BY = 32
"""How many first rows of a source show what its columns hold.

`plan` reads no more, except from a file where these do not show which choice is right.
"""
_PARTS = ("question", "answer", "context", "reference", "messages", "system_message", "system", "id")
_OPTIONAL = ("reference", "tests", "system", "id")
_MBPP = "tasks with code and tests (MBPP)"
_PAIRS = (
    ("prompts and completions (TRL)", "prompt", None, "completion"),
    ("instructions (Alpaca)", "instruction", "input", "output"),
    ("instructions (Dolly)", "instruction", "context", "response"),
    ("problems with solutions", "problem", None, "solution"),
    ("prompts with solutions", "prompt", None, "solution"),
    ("problems with solutions", "problem", None, "generated_solution"),
    ("prompts with checked answers (verl)", "prompt", None, "extra_info.answer"),
    (_MBPP, "text", None, "code"),
    (_MBPP, "prompt", None, "code"),
    ("problems with answers", "problem", None, "answer"),
    ("prompts with answers", "prompt", None, "answer"),
    ("questions with solutions", "question", None, "solution"),
    ("questions with long answers (PubMedQA)", "question", "context.contexts", "long_answer"),
    ("questions with responses", "question", None, "response"),
    ("prompts with responses", "prompt", None, "response"),
    ("queries with responses", "query", None, "response"),
    ("prompts with outputs", "prompt", "input", "output"),
    ("inputs with outputs", "input", None, "output"),
    ("tasks with definitions (Natural Instructions)", "definition", "inputs", "targets"),
    ("inputs with targets (FLAN)", "inputs", None, "targets"),
    ("turns of a user and an assistant", "user", None, "assistant"),
    ("turns of a human and an assistant", "human", None, "assistant"),
    ("contexts with responses", "context", None, "response"),
)
"""Descriptions of rows, with their columns for question, context and answer."""
_WITH_INPUT = ("instruction", "prompt")
"""Question columns that a column `input` belongs to."""
_SHORT = (*REFERENCES, "answer.aliases", "answer.value", "answers.text", "answers", "answer")
"""Columns of short answers, one or several, in data without whole answers: TriviaQA, SQuAD, Natural Questions."""
_TESTS = ("tests", "test_list")
_ENOUGH = 8
"""How many answers show how a source writes them."""


class UnclearChoicesError(BadInputError):
    """The rows read so far do not show which choice is right; more rows may."""


@dataclass(frozen=True)
class Mapped:
    """The mapping of a source, and its description where the settings name no columns."""

    columns: ColumnMapping
    description: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Every column's name as in `columns`, where the source's names have capitals or spaces around them."""
    made: ChoiceColumns | RightAndWrong | YesNoColumns | None = None
    """The reader that makes question and answer from a row that has neither as text."""

    @property
    def used(self) -> set[str]:
        """The columns that are read, by the source's names."""
        names = {value for value in self.columns.model_dump().values() if value}
        names |= set(BEFORE_TESTS if self.columns.tests else ())
        names = {name.split(".")[0] for name in {*names, *(self.made.names if self.made is not None else ())}} | names
        return names | {name for name, plain in self.renamed.items() if plain in names}

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row by these names, with fields inside its cells as columns of their own."""
        row = {self.renamed.get(name, name): value for name, value in row.items()} if self.renamed else row
        names = {value for value in self.columns.model_dump().values() if value}
        return with_inner(row, names | set(self.made.names if self.made is not None else ()))


@dataclass(frozen=True)
class _Evidence:
    """The evidence by which a source is recognised."""

    columns: Collection[str]
    """Names of columns, and of fields inside their cells."""
    rows: Sequence[dict[str, Any]]
    """The first rows."""
    every: Callable[[], Iterable[dict[str, Any]]]
    """Returns all rows."""
    systems: Sequence[str]
    separated: bool = False
    """Whether the rows come from CSV files, in which every cell is a text."""

    def renamed(self, names: Mapping[str, str]) -> _Evidence:
        """The same with other names."""

        def under(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
            return ({names.get(name, name): value for name, value in row.items()} for row in rows)

        return _Evidence(
            list(names.values()), list(under(self.rows)), lambda: under(self.every()), self.systems, self.separated
        )


def plain_name(text: str) -> str:
    """A system's name in lower case and without spaces, `_` and `-`, for comparing."""
    return re.sub(r"[\s_-]", "", text.lower())


def mapping_for(config: DataConfig, columns: Collection[str], rows: Sequence[RawRow], where: str) -> Mapped:
    """The mapping in the settings, if all its columns exist, or else the one that fits the columns.

    The first `RECOGNISED_BY` rows show what the columns hold; all rows are searched for the first place of choices.
    Raises BadInputError naming the column and the nearest right one, UnclearChoicesError where the rows do not show
    which choice is right.
    """
    top = [row for _, row in rows[:RECOGNISED_BY]]
    nested = inner_names(top)
    first = [with_inner(row, nested) for row in top]
    every = [*columns, *nested]
    separated = all(is_separated(where) for where, _ in rows)
    named = config.columns or (MAPPINGS[config.mapping] if config.mapping is not None else None)
    seen = [_with_lists(row) for row in first] if separated else first
    evidence = _Evidence(every, seen, lambda: (with_inner(row, nested) for _, row in rows), config.systems, separated)
    mapped = Mapped(named) if named is not None else _recognised(evidence) or _by_plain_names(evidence)
    if isinstance(mapped, Unclear):
        raise UnclearChoicesError(f"data.columns: {where} has questions with choices: {mapped.message}")
    if mapped is None:
        raise BadInputError(
            f"data.columns: {where} has no columns that say what is asked and answered; it has: "
            f"{shown_names(columns, nested)}{pair_meant(every)}; {why_not(every, first)}"
        )
    if mapped.description is not None:
        mapped = replace(mapped, description=f"{mapped.description}{unread(columns, top, mapped.used)}")
    if mapped.renamed:
        return mapped
    for part in _PARTS:
        column = getattr(mapped.columns, part)
        if column is None or column in every or (part in ("question", "answer") and mapped.columns.messages):
            continue
        if any(inner(row, column) is not None for row in top):
            continue
        raise BadInputError(
            f"data.columns.{part}: {where} has no column '{column}'{column_meant(part, column, every)}; it has: "
            f"{shown_names(columns, nested)}; name the right one in data.columns"
        )
    return mapped


def _with_lists(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a CSV file with its cells' lists of texts parsed."""
    listed = {name: texts_in(cell) for name, cell in row.items() if isinstance(cell, str)}
    return row | {name: texts for name, texts in listed.items() if texts is not None}


def _by_plain_names(evidence: _Evidence) -> Mapped | Unclear | None:
    """What lower-case names without surrounding white space are recognised as; None where two would be equal."""
    plain = {
        column: ".".join([head.strip().lower(), *rest])
        for column in evidence.columns
        for head, *rest in [column.split(".")]
    }
    if len(set(plain.values())) < len(plain) or all(name == column for column, name in plain.items()):
        return None
    found = _recognised(evidence.renamed(plain))
    if found is None or isinstance(found, Unclear):
        return found
    columns_of = {name: column for column, name in plain.items()}
    used = {value for value in found.columns.model_dump().values() if isinstance(value, str)}
    written = ", ".join(f"'{column}'" for column, name in plain.items() if name in used and name != column)
    description = re.sub(
        r"(data\.columns\.\w+=)(\w+)", lambda of: of[1] + columns_of.get(of[2], of[2]), found.description or ""
    )
    return replace(
        found, description=f"{description}; capitals and spaces in the names {written} do not count", renamed=plain
    )


def _recognised(evidence: _Evidence) -> Mapped | Unclear | None:
    """What the columns are recognised as; None where nothing fits."""
    columns, rows, systems = evidence.columns, evidence.rows, evidence.systems
    if not set(CONVERSATIONS) & set(columns):
        made = (
            find_choices(columns, rows, evidence.every)
            or find_right_and_wrong(columns)
            or find_yes_no(columns, rows, separated=evidence.separated)
        )
        if made is not None:
            return made if isinstance(made, Unclear) else _of_made(made, columns, rows, systems)
    if "question" in columns and "answer" in columns and not _solved(rows) and _is_whole("answer", rows):
        below = _below("question", columns)
        mapping = ColumnMapping(context=below, **{part: part for part in _OPTIONAL if part in columns})
        notes = f"'{below}' is put below the question" if below else ""
        return _with_reference("questions and answers", _with_short_answer(mapping, columns, rows), notes, rows)
    found = _conversation(columns, rows) or _pair(columns, rows) or _short(columns, rows)
    if found is None:
        return None
    what, mapping = found
    mapping = mapping.model_copy(update={part: part for part in ("system", "id") if part in columns})
    mapping = mapping.model_copy(update={"tests": next((name for name in _TESTS if name in columns), None)})
    mapping = _with_short_answer(mapping, columns, rows)
    return _with_reference(what, _with_system_message(mapping, columns, rows, systems), _renamed_text(mapping), rows)


def _of_made(
    made: ChoiceColumns | RightAndWrong | YesNoColumns,
    columns: Collection[str],
    rows: Sequence[dict[str, Any]],
    systems: Sequence[str],
) -> Mapped:
    """The mapping of rows whose question or answer is made from several columns."""
    own = {part: part for part in ("system", "id") if part in columns}
    below = made.context if isinstance(made, YesNoColumns) else None
    mapping = ColumnMapping(question=made.question, context=below, answer=made.answer, reference=made.answer, **own)
    mapping = _with_system_message(mapping, columns, rows, systems)
    also = f"; '{mapping.system_message}' is the row's system message" if mapping.system_message else ""
    return Mapped(mapping, f"recognised as {made.message}{also}", made=made)


def _conversation(columns: Collection[str], rows: Sequence[dict[str, Any]]) -> tuple[str, ColumnMapping] | None:
    for column in CONVERSATIONS:
        if column not in columns:
            continue
        cells = [row[column] for row in rows if row.get(column)]
        read = messages_in if column == "contents" else turns_in  # texts in it are paragraphs
        found = [messages for cell in cells if (messages := read(cell)) is not None]
        if found and not any(map(is_answered, found)):
            answered = _answered_by_column("conversations", column, None, columns, rows)
            if answered is not None:
                return answered
        if found:
            ours = "role" in found[0][0]
            return "conversations (" + ("chat messages" if ours else "ShareGPT") + ")", ColumnMapping(messages=column)
    return None


def _pair(columns: Collection[str], rows: Sequence[dict[str, Any]]) -> tuple[str, ColumnMapping] | None:
    for what, question, context, answer in _PAIRS:
        if what == _MBPP and not set(_TESTS) & set(columns):
            continue  # a `text` with a `code` may be anything, such as a ticket with its product's code
        if question in columns and answer in columns and _is_whole(answer, rows):
            below = context if context in columns else _below(question, columns)
            return what, ColumnMapping(question=question, context=below, answer=answer)
    return None


def _short(columns: Collection[str], rows: Sequence[dict[str, Any]]) -> tuple[str, ColumnMapping] | None:
    question = next((one for one in USUAL["question"] if one in columns), None)
    return (
        None
        if question is None
        else _answered_by_column("questions", question, _below(question, columns), columns, rows)
    )


def _answered_by_column(
    what: str, question: str, context: str | None, columns: Collection[str], rows: Sequence[dict[str, Any]]
) -> tuple[str, ColumnMapping] | None:
    """Questions with only short answers, one or several, which are both answers and references.

    Whole answers in a column `answer` are only answers.
    """
    answer = next((one for one in _SHORT if one in columns and _is_short_or_several(one, rows)), None)
    if answer is None:
        return None
    texts = [cell for row in rows if isinstance(cell := row.get(answer), str)]
    if answer == "answer" and 2 * sum(map(is_short, texts)) < len(texts):
        return f"{what} with answers", ColumnMapping(question=question, context=context, answer=answer)
    mapping = ColumnMapping(question=question, context=context, answer=answer, reference=answer)
    return f"{what} with short answers", mapping


def _below(question: str, columns: Collection[str]) -> str | None:
    """The column with a question's context."""
    names = (*CONTEXTS, *(["input"] if question in _WITH_INPUT else []))
    return next((name for name in names if name in columns and name != question), None)


def _is_whole(column: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column's non-empty cells hold texts or messages."""
    cells = [cell for row in rows if (cell := row.get(column)) is not None]
    return (
        not rows or not cells or any(not isinstance(cell, list | tuple | dict) or messages_in(cell) for cell in cells)
    )


def _is_short_or_several(column: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column holds texts or numbers, or lists of them."""
    cells = [cell for row in rows if (cell := row.get(column)) is not None]
    flat = [one for cell in cells for one in (cell if isinstance(cell, list | tuple) else [cell])]
    return bool(flat) and all(isinstance(one, str | int | float) for one in flat)


def _solved(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column `solution` holds whole answers and `answer` short ones."""
    return _is_shorter("solution", rows)


def _is_shorter(whole: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether most answers in a column `answer` are shorter than those in another."""
    both = [(row["answer"], row[whole]) for row in rows if row.get(whole) and row.get("answer") is not None]
    texts = [(one, text) for one, text in both if isinstance(one, str | bool | int | float) and isinstance(text, str)]
    return bool(texts) and 2 * sum(len(str(one)) < len(text) for one, text in texts) > len(texts)


def _with_short_answer(
    mapping: ColumnMapping, columns: Collection[str], rows: Sequence[dict[str, Any]]
) -> ColumnMapping:
    """Add the column of the short answer next to the whole one: `answer` next to a solution or a conversation.

    Also next to any other answer, where it is the shorter one.
    """
    beside = mapping.messages or mapping.answer.endswith("solution")
    beside = beside or (mapping.answer != "answer" and _is_shorter(mapping.answer, rows))
    names = [*REFERENCES, *(["answer"] if beside else [])]
    found = next((name for name in names if name in columns), None)
    return mapping if found is None else mapping.model_copy(update={"reference": found})


def _with_system_message(
    mapping: ColumnMapping, columns: Collection[str], rows: Sequence[dict[str, Any]], systems: Sequence[str]
) -> ColumnMapping:
    """Add the column `system` as system message, unless it holds the names of the systems."""
    if "system_prompt" in columns:
        return mapping.model_copy(update={"system_message": "system_prompt"})
    if "systemInstruction" in columns and mapping.messages:
        return mapping.model_copy(update={"system_message": "systemInstruction"})
    cells = [system_text(row.get("system")) or row.get("system") for row in rows]
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if texts and not any(plain_name(text) in map(plain_name, systems) for text in texts):
        return mapping.model_copy(update={"system": None, "system_message": "system"})
    return mapping


def _renamed_text(mapping: ColumnMapping) -> str:
    if mapping.messages:
        return f"the last turn of the assistant in '{mapping.messages}' is the answer, the turns before it are context"
    context = f" with '{mapping.context}' below it" if mapping.context else ""
    if mapping.answer == mapping.reference:  # of `_short`
        return f"'{mapping.question}'{context} is the question, and '{mapping.answer}' both answer and reference"
    return f"'{mapping.question}'{context} is the question, '{mapping.answer}' the answer"


def _with_reference(what: str, mapping: ColumnMapping, notes: str, rows: Sequence[dict[str, Any]]) -> Mapped:
    """Add the way in which most of these rows write short answers."""
    answers = [] if mapping.reference is not None else [text for row in rows if (text := _answer_text(row, mapping))]
    styles = (
        (GSM8K, "follows ####"),
        (BOXED, "stands in the last \\boxed{}"),
        (ANSWER_IS, "follows 'the answer is' at the end"),
    )
    found = {pattern: sum(map(bool, map(reference_finder(pattern), answers))) for pattern, _ in styles}
    pattern, style = max(styles, key=lambda one: found[one[0]])
    if 2 * found[pattern] > len(answers):
        mapping = mapping.model_copy(update={"reference_pattern": pattern})
        what = f"{what} (GSM8K)" if pattern == GSM8K and not notes else what
        notes = "; ".join(filter(None, (notes, f"the reference is what {style} in the answer")))
    elif mapping.messages is None and len(answers) >= _ENOUGH and all(map(is_short, answers)):
        notes = "; ".join(filter(None, (notes, _TAKE_SHORT.format(mapping))))
    if mapping.reference not in (None, "reference", None if mapping.messages else mapping.answer):
        notes = "; ".join(filter(None, (notes, f"'{mapping.reference}' is the reference")))
    if mapping.system_message is not None:
        notes = "; ".join(filter(None, (notes, f"'{mapping.system_message}' is the row's system message")))
    return Mapped(mapping, f"recognised as {what}" + (f": {notes}" if notes else ""))


_TAKE_SHORT = (
    "its answers are short, and are the references, too, with data.columns.question={0.question} "
    "data.columns.answer={0.answer} data.columns.reference={0.answer}"
)


def is_short(answer: str) -> bool:
    """Whether an answer can be compared directly: a number, or one to three words."""
    return len(answer.split()) <= 3 and len(answer) <= 40


def _answer_text(row: dict[str, Any], mapping: ColumnMapping) -> str:
    cell = row.get(mapping.messages or mapping.answer)
    messages = messages_in(cell)
    if messages:
        last = messages[-1]
        cell = last.get("content", last.get("value"))
    return cell if isinstance(cell, str) else ""


def check_mapping(config: DataConfig) -> None:
    """Refuse an unknown mapping and a reference pattern that cannot work, before any data is read."""
    if config.mapping is not None and config.mapping not in MAPPINGS:
        known = ", ".join(MAPPINGS)
        raise BadInputError(
            f"data.mapping: no mapping is called '{config.mapping}'{nearest(config.mapping, list(MAPPINGS))}; "
            f"known: {known}, or name the columns in data.columns"
        )
    pattern = config.columns.reference_pattern if config.columns else None
    if pattern is not None:
        reference_finder(pattern)
