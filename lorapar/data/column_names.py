"""Usual names of columns, and hints from them where columns are not recognised."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

from lorapar.data.choice_lists import choice_columns
from lorapar.data.conversation import MEDIA_COLUMNS, messages_in
from lorapar.data.nested import structure_of
from lorapar.data.yes_no import truth_word

CONVERSATIONS = ("messages", "conversations", "conversation", "contents")
REFERENCES = (
    *("reference", "reference_answer", "ground_truth", "final_answer", "final answer", "expected_answer"),
    "final_decision",
    *("reward_model.ground_truth", "verification_info.ground_truth"),
)
"""Usual names of the short answer next to the whole one; verl and SYNTHETIC-1 keep it in a structure."""
USUAL = {
    "question": ("question", "prompt", "instruction", "problem", "query", "input", "q"),
    "answer": ("answer", "completion", "output", "response", "solution", "a"),
    "reference": REFERENCES,
}
"""Usual names of columns by part; a name of one part is never suggested for the other."""
_LABELLED = (("text", "sentence"), ("label", "label_text", "category", "class", "sentiment", "intent"))
"""Usual columns of texts to classify, and of their labels."""
_LONG = 40
"""Characters that do not occur in names of columns."""
_KNOWN_BESIDE = ("history", "label", "tools", *MEDIA_COLUMNS)
"""Columns that another message covers, or that are read."""
_SHOWN = 8
"""Columns that are not read but still named."""
_PAIR = ("question", "answer")
_KNOWN = (
    "known are question and answer (or response), messages, conversations, prompt and completion (or response), "
    "instruction and output (or response), problem and solution (or answer), query and response, input and output"
)


def why_not(columns: Collection[str], rows: Sequence[dict[str, Any]]) -> str:
    """What to do with columns that are not recognised, such as preferences and foreign turns."""
    chosen = next((name for name in ("chosen", "preferred_output") if name in columns), None)
    if chosen is not None:
        read = [name for name in columns if all(isinstance(c := row.get(name), str) or messages_in(c) for row in rows)]
        asked = next((name for name in (*USUAL["question"], "input.messages") if name in read), None)
        how = "write it as messages"
        if any(len(messages_in(row.get(chosen)) or ()) > 1 for row in rows):
            how = f"set data.columns.messages={chosen}"
        elif asked is not None and chosen in read:
            how = f"set data.columns.question={asked} and data.columns.answer={chosen}"
        return f"these are preferences, which are not trained; to learn what was chosen alone, {how}"
    choices = choice_columns(columns)
    if choices is not None and "question" in columns:
        places = "', '".join(choices)
        return (
            f"no column tells which of '{places}' is right by its letter, place or text: write the letter into a "
            "column 'answer', or the choices into the question and the right one as the answer"
        )
    for column in CONVERSATIONS:
        turns = [cell[0] for row in rows if isinstance(cell := row.get(column), list) and cell]
        if turns and isinstance(turns[0], dict):
            keys = ", ".join(f"'{key}'" for key in turns[0])
            return f"the turns in '{column}' have {keys}, and known are 'role' with 'content', and 'from' with 'value'"
    judged = _judged(columns, rows)
    if judged:
        return judged
    text, label = (next((one for one in names if one in columns), None) for names in _LABELLED)
    if text is not None and label is not None:
        return (
            "these are texts with labels: write what is asked of them into a column, name it as data.columns.question, "
            f"and set data.columns.context={text}, data.columns.answer={label} and data.columns.reference={label}"
        )
    if any(len(column) > _LONG for column in columns):
        return "its first line is read as the names of columns and looks like a row: put a line with names above it"
    return f"name the right ones in data.columns ({_KNOWN}){_whole_text(columns)}"


def unread(columns: Collection[str], rows: Sequence[dict[str, Any]], used: Collection[str]) -> str:
    """A suffix with the columns of texts that are not read; empty if all are."""
    some = [
        name
        for name in columns
        if name not in used
        and name.strip().lower() not in _KNOWN_BESIDE
        and any(isinstance(cell := row.get(name), str) and cell.strip() and not structure_of(cell) for row in rows)
    ]
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return f"; not read: {', '.join(some[:_SHOWN])}{more}" if some else ""


def _judged(columns: Collection[str], rows: Sequence[dict[str, Any]]) -> str:
    """What to do with a truth value that judges an answer with an unusual name; empty where there is none."""
    label = next((name for name in ("label", "target") if any(truth_word(row.get(name)) for row in rows)), None)
    question = next((name for name in USUAL["question"] if name in columns), None)
    if label is None or question is None:
        return ""
    return (
        f"'{label}' is true or false, of an answer or as one: leave out the rows with answers that must not be "
        f"written, and set data.columns.question={question} and data.columns.answer"
    )


def _whole_text(columns: Collection[str]) -> str:
    """What to do with a column of whole texts, in which the end of the question is unknown."""
    text = next((column for column in columns if column.strip().lower() == "text"), None)
    why = "; a whole text does not say where the question ends and the answer begins: split"
    return "" if text is None else f"{why} '{text}' into two columns, or into messages"


def pair_meant(columns: Collection[str]) -> str:
    """A suffix with the probable columns, if exactly one has a usual name of a question and one of an answer."""
    structures = {one.rpartition(".")[0] for one in columns}
    fields = {one: one.rpartition(".")[2].strip().lower() for one in columns if one not in structures}
    question, answer = ([one for one, name in fields.items() if name in USUAL[part]] for part in _PAIR)
    if len(question) != 1 or len(answer) != 1:
        return ""
    return f" (did you mean data.columns.question={question[0]} and data.columns.answer={answer[0]}?)"


def column_meant(part: str, column: str, columns: Collection[str]) -> str:
    """A suffix with the probable column: one of similar spelling, or the only one with a usual name of its part.

    Empty where there is none; the usual name of another part is never suggested.
    """
    others = {name for of, names in USUAL.items() if of != part for name in names}
    own = [one for one in columns if one.lower() not in others]
    lower = {one.lower(): one for one in own}
    close = get_close_matches(column.lower(), list(lower), n=1, cutoff=0.8)
    usual = [one for one in own if one.lower() in USUAL.get(part, (part,))]
    meant = [lower[one] for one in close] or [one for one in usual if one.lower() == part]
    meant = meant or (usual if len(usual) == 1 else [])
    return f" (did you mean '{meant[0]}'?)" if meant else ""
