"""Examples from a source: each row checked, named, and dealt to the training or the held-out split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, get_args

from lorapar.config import ColumnMapping, DataConfig
from lorapar.data.mapping import compiled_pattern, mapping_for
from lorapar.data.readers import RawRow
from lorapar.data.source import Kind, kind_of, source_rows
from lorapar.data.taskmix import generate_task_mix
from lorapar.errors import BadInputError, nearest
from lorapar.records import Example, System

_THOUSANDS = re.compile(r"[-+]?\$?\d{1,3}(,\d{3})+(\.\d+)?")
_FIELD_OF = {"system": "known_system"}
_SYSTEMS: tuple[System, ...] = get_args(System)


@dataclass(frozen=True)
class LoadedData:
    """What a source came to."""

    examples: list[Example]
    """All rows, in the order of the source, ids unique."""
    left_out: list[str] = field(default_factory=list)
    """Why rows were left out, one line each (only where `data.bad_rows` allows it)."""


def load_examples(config: DataConfig, seed: int) -> list[Example]:
    """The examples of `load_data`."""
    return load_data(config, seed).examples


def load_data(config: DataConfig, seed: int) -> LoadedData:
    """Read, check and split a source; equal settings, source and seed give equal examples.

    The task mix comes with its own split. Other rows are ranked by a digest of seed and question, and the first ones
    are held out: the choice does not depend on the order of the rows, and no question is on both sides.

    Raises BadInputError naming file, line and field, UnreachableError where the hub does not answer.
    """
    if kind_of(config) is Kind.TASK_MIX:
        return LoadedData(_task_mix(config, seed))
    rows = list(islice(source_rows(config), config.limit))
    if not rows:
        raise BadInputError(f"data.source: {config.source} is empty; it needs at least one row")
    columns = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    mapping = mapping_for(config, columns, config.source)
    loaded = _examples(rows, mapping, strict=config.bad_rows == "refuse")
    if not loaded.examples:
        raise BadInputError(f"data.source: {config.source} has no usable row; the first: {loaded.left_out[0]}")
    _require_a_reference(loaded.examples, mapping, config.source)
    return LoadedData(_split(loaded.examples, config.heldout, seed), loaded.left_out)


def _task_mix(config: DataConfig, seed: int) -> list[Example]:
    try:
        rows = generate_task_mix(**config.task_mix.model_dump(), seed=seed)
    except ValueError as error:
        raise BadInputError(f"data.task_mix: {error}") from None
    return [Example.model_validate({_FIELD_OF.get(key, key): value for key, value in row.items()}) for row in rows]


class _BadRowError(Exception):
    """A row that cannot be used; the message says where it stands and why."""


def _examples(rows: Iterable[RawRow], mapping: ColumnMapping, *, strict: bool) -> LoadedData:
    build = _builder(mapping)
    examples: list[Example] = []
    left_out: list[str] = []
    questions: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, row in rows:
        try:
            example = build(where, row)
            _claim(questions, _same_text(example.question), where, "asks the same question as")
            _claim(names, example.id, where, f"has the same id '{example.id}' as")
        except _BadRowError as error:
            if strict:
                raise BadInputError(f"{error}; mend the row, or set data.bad_rows=leave_out") from None
            left_out.append(str(error))
        else:
            examples.append(example)
    return LoadedData(examples, left_out)


def _claim(taken: dict[str, str], key: str, where: str, complaint: str) -> None:
    if key in taken:
        raise _BadRowError(f"{where}: {complaint} {taken[key]}")
    taken[key] = where


def _builder(mapping: ColumnMapping) -> Callable[[str, dict[str, Any]], Example]:
    """A function from a place and a row to its example."""
    pattern = compiled_pattern(mapping.reference_pattern) if mapping.reference_pattern else None

    def build(where: str, row: dict[str, Any]) -> Example:
        question = _needed(where, row, mapping.question, "question")
        context = _text(where, row, mapping.context)
        if context:
            question = f"{question}\n\n{context}"
        answer = _needed(where, row, mapping.answer, "answer")
        reference = _text(where, row, mapping.reference)
        if pattern is not None and not reference:
            found = pattern.search(answer)
            reference = (found[1] or "") if found else ""
        return Example(
            id=_text(where, row, mapping.id) or hashlib.sha256(_same_text(question).encode()).hexdigest()[:16],
            question=question,
            answer=answer,
            reference=_without_commas(reference) or None,
            known_system=_system(where, row, mapping.system),
        )

    return build


def _text(where: str, row: dict[str, Any], column: str | None) -> str:
    """A column as text without white space around it; empty where the column is not mapped or has no value."""
    value = row.get(column) if column is not None else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _BadRowError(f"{where}: '{column}' is not text but {type(value).__name__}")
    return str(value).strip()


def _needed(where: str, row: dict[str, Any], column: str, part: str) -> str:
    text = _text(where, row, column)
    if not text:
        article = "an" if part == "answer" else "a"
        raise _BadRowError(f"{where}: a row without {article} {part} ('{column}' is empty or missing)")
    return text


def _system(where: str, row: dict[str, Any], column: str | None) -> System | None:
    text = _text(where, row, column)
    plain = re.sub(r"[\s_-]", "", text.lower())
    if not plain:
        return None
    for system in _SYSTEMS:
        if plain == system:
            return system
    raise _BadRowError(f"{where}: '{column}' is '{text}'{nearest(plain, list(_SYSTEMS))}; use {' or '.join(_SYSTEMS)}")


def _without_commas(reference: str) -> str:
    """`1,000` as `1000`; anything that is not one number stays as it is."""
    reference = reference.strip()
    return reference.replace(",", "") if _THOUSANDS.fullmatch(reference) else reference


def _same_text(text: str) -> str:
    """Texts that differ only in white space are one question."""
    return " ".join(text.split())


def _require_a_reference(examples: list[Example], mapping: ColumnMapping, source: str) -> None:
    """A pattern that never matches is a mistake; one that misses some rows leaves those without a reference."""
    if mapping.reference_pattern and not any(example.reference for example in examples):
        raise BadInputError(
            f"data.columns.reference_pattern: '{mapping.reference_pattern}' matches no answer of {source}; "
            f"the first one ends in '{examples[0].answer[-40:]}'"
        )


def _split(examples: list[Example], heldout: float, seed: int) -> list[Example]:
    count = _heldout_rows(heldout, len(examples))
    ranked = sorted(examples, key=lambda one: hashlib.sha256(f"{seed}:{_same_text(one.question)}".encode()).digest())
    chosen = {example.id for example in ranked[:count]}
    return [
        example.model_copy(update={"split": "heldout" if example.id in chosen else "train"}) for example in examples
    ]


def _heldout_rows(heldout: float, rows: int) -> int:
    if heldout >= 1 and heldout != int(heldout):
        raise BadInputError(f"data.heldout: {heldout} is neither a share below 1 nor a whole number of rows")
    count = int(heldout) if heldout >= 1 else max(round(heldout * rows), 1 if heldout else 0)
    if count >= rows:
        raise BadInputError(f"data.heldout: holding out {count} of {rows} rows leaves none to train on; hold out fewer")
    return count
