"""Examples from a source: each row checked, named, and dealt to the training or the held-out split."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, get_args

from lorapar.answers import References, distinct
from lorapar.config import ColumnMapping, DataConfig
from lorapar.data.cells import BadRowError, Cells
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
    more: bool = False
    """Whether the source has rows beyond `data.limit`."""
    blank_texts: dict[str, int] = field(default_factory=dict)
    """By column, the cells that hold a text such as `nan` and count as empty."""


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
    source = iter(source_rows(config))
    rows = list(islice(source, config.limit))
    if not rows:
        raise BadInputError(f"data.source: {config.source} is empty; it needs at least one row")
    columns = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    mapping = mapping_for(config, columns, config.source)
    loaded = _examples(rows, mapping, strict=config.bad_rows == "refuse")
    if not loaded.examples:
        raise BadInputError(f"data.source: {config.source} has no usable row; the first: {loaded.left_out[0]}")
    _require_a_reference(loaded.examples, mapping, config.source)
    more = config.limit is not None and next(source, None) is not None
    return replace(loaded, examples=_split(loaded.examples, config.heldout, seed), more=more)


def _task_mix(config: DataConfig, seed: int) -> list[Example]:
    try:
        rows = generate_task_mix(**config.task_mix.model_dump(), seed=seed)
    except ValueError as error:
        raise BadInputError(f"data.task_mix: {error}") from None
    return [Example.model_validate({_FIELD_OF.get(key, key): value for key, value in row.items()}) for row in rows]


def _examples(rows: list[RawRow], mapping: ColumnMapping, *, strict: bool) -> LoadedData:
    builder = _Builder(mapping, Cells(rows))
    examples: list[Example] = []
    left_out: list[str] = []
    questions: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, row in rows:
        try:
            example = builder.example(where, row)
            _claim(questions, _same_text(example.question), where, "asks the same question as")
            _claim(names, example.id, where, f"has the same id '{example.id}' as")
        except BadRowError as error:
            if strict:
                raise BadInputError(f"{error}; mend the row, or set data.bad_rows=leave_out") from None
            left_out.append(str(error))
        else:
            examples.append(example)
    return LoadedData(examples, left_out, blank_texts=dict(builder.cells.blank_texts))


def _claim(taken: dict[str, str], key: str, where: str, complaint: str) -> None:
    if key in taken:
        raise BadRowError(f"{where}: {complaint} {taken[key]}")
    taken[key] = where


class _Builder:
    """Makes the examples of rows."""

    def __init__(self, mapping: ColumnMapping, cells: Cells) -> None:
        self.cells = cells
        self._mapping = mapping
        self._pattern = compiled_pattern(mapping.reference_pattern) if mapping.reference_pattern else None

    def example(self, where: str, row: dict[str, Any]) -> Example:
        """The example of a row; raises BadRowError."""
        mapping, text = self._mapping, self.cells.text
        question = self._needed(where, row, mapping.question, "question")
        context = text(where, row, mapping.context)
        if context:
            question = f"{question}\n\n{context}"
        answer = self._needed(where, row, mapping.answer, "answer")
        return Example(
            id=text(where, row, mapping.id) or hashlib.sha256(_same_text(question).encode()).hexdigest()[:16],
            question=question,
            answer=answer,
            reference=self._reference(where, row, answer),
            known_system=self._system(where, row, mapping.system),
        )

    def _needed(self, where: str, row: dict[str, Any], column: str, part: str) -> str:
        text = self.cells.text(where, row, column)
        if not text:
            article = "an" if part == "answer" else "a"
            raise BadRowError(f"{where}: a row without {article} {part} ('{column}' is empty or missing)")
        return text

    def _reference(self, where: str, row: dict[str, Any], answer: str) -> References | None:
        """What the column says, or else what the pattern finds in the answer; several are a tuple."""
        found = distinct(map(_without_commas, self.cells.texts(where, row, self._mapping.reference)))
        if not found and self._pattern is not None:
            match = self._pattern.search(answer)
            found = distinct([_without_commas(match[1] or "")]) if match else ()
        return found if len(found) > 1 else next(iter(found), None)

    def _system(self, where: str, row: dict[str, Any], column: str | None) -> System | None:
        text = self.cells.text(where, row, column)
        plain = re.sub(r"[\s_-]", "", text.lower())
        if not plain:
            return None
        for system in _SYSTEMS:
            if plain == system:
                return system
        known = nearest(plain, list(_SYSTEMS))
        raise BadRowError(f"{where}: '{column}' is '{text}'{known}; use {' or '.join(_SYSTEMS)}")


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
