"""Examples from a source: each row checked, named, and dealt to the training or the held-out split."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, get_args

from lorapar.answers import References, distinct
from lorapar.config import ColumnMapping, DataConfig
from lorapar.data.cells import BadRowError, Cells
from lorapar.data.conversation import MEDIA_COLUMNS, Conversation, messages_in, read_conversation
from lorapar.data.mapping import RECOGNISED_BY, Mapped, mapping_for, reference_finder
from lorapar.data.readers import RawRow
from lorapar.data.source import Kind, kind_of, source_rows
from lorapar.data.taskmix import generate_task_mix
from lorapar.errors import BadInputError, UnreachableError, nearest
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
    notes: list[str] = field(default_factory=list)
    """What the columns were recognised as, how files were read, and what was made of rows, one line each."""


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
    loaded, mapped = _read(config)
    if mapped.said is None and loaded.examples:
        _require_a_reference(loaded.examples, mapped.columns, config.source)
    if not loaded.examples:
        raise BadInputError(f"data.source: {config.source} has no usable row; the first: {loaded.left_out[0]}")
    return replace(loaded, examples=_split(loaded.examples, config.heldout, seed))


def load_sample(config: DataConfig, seed: int) -> LoadedData:
    """The first rows of a source, none held out: what `plan` looks at.

    Of the hub, rows are looked at only where the settings leave open what the columns mean, and none where it fails.
    Raises as `load_data`.
    """
    if kind_of(config) is Kind.TASK_MIX:
        return LoadedData(_task_mix(config, seed)[:RECOGNISED_BY])
    few = config.model_copy(update={"limit": min(config.limit or RECOGNISED_BY, RECOGNISED_BY)})
    if kind_of(config) is not Kind.HUB:
        return _read(few)[0]
    if config.mapping is not None or config.columns is not None:
        return LoadedData([])
    try:
        return _read(few, streamed=True)[0]
    except (UnreachableError, OSError, ValueError):  # not everything that can be downloaded can be streamed
        return LoadedData([])


def _read(config: DataConfig, *, streamed: bool = False) -> tuple[LoadedData, Mapped]:
    """The rows of a source that is not the task mix, not yet split."""
    notes: list[str] = []
    source = iter(source_rows(config, notes.append, streamed=streamed))
    rows = list(islice(source, config.limit))
    if not rows:
        raise BadInputError(f"data.source: {config.source} is empty; it needs at least one row")
    columns = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    mapped = mapping_for(config, columns, rows, config.source)
    loaded = _examples(rows, mapped, strict=config.bad_rows == "refuse")
    more = config.limit is not None and next(source, None) is not None
    notes += [f"{config.source} is {mapped.said}"] if mapped.said else []
    return replace(loaded, more=more, notes=[*notes, *loaded.notes]), mapped


def _task_mix(config: DataConfig, seed: int) -> list[Example]:
    try:
        rows = generate_task_mix(**config.task_mix.model_dump(), seed=seed)
    except ValueError as error:
        raise BadInputError(f"data.task_mix: {error}") from None
    return [Example.model_validate({_FIELD_OF.get(key, key): value for key, value in row.items()}) for row in rows]


def _examples(rows: list[RawRow], mapped: Mapped, *, strict: bool) -> LoadedData:
    builder = _Builder(mapped, Cells(rows))
    examples: list[Example] = []
    left_out: list[str] = []
    questions: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, row in rows:
        try:
            example = builder.example(where, row)
            _claim(questions, _same_text(example.asked), where, "asks the same question as")
            _claim(names, example.id, where, f"has the same id '{example.id}' as")
        except BadRowError as error:
            if strict:
                raise BadInputError(f"{error}; mend the row, or set data.bad_rows=leave_out") from None
            left_out.append(str(error))
        else:
            examples.append(example)
    notes = [f"{count:,} of {len(rows):,} rows {what}" for what, count in builder.seen.items()]
    notes += [
        f"{count:,} of {len(rows):,} rows have '{text}' as their '{column}', taken for that text; empty the cell where "
        "nothing is meant"
        for (column, text), count in builder.cells.doubtful.items()
    ]
    return LoadedData(examples, left_out, blank_texts=dict(builder.cells.blank_texts), notes=notes)


def _claim(taken: dict[str, str], key: str, where: str, complaint: str) -> None:
    if key in taken:
        raise BadRowError(f"{where}: {complaint} {taken[key]}")
    taken[key] = where


class _Builder:
    """Makes the examples of rows."""

    def __init__(self, mapped: Mapped, cells: Cells) -> None:
        mapping = mapped.columns
        self.cells = cells
        self.seen: Counter[str] = Counter()
        """Rows by what was made of them, in words."""
        self._mapping = mapping
        self._recognised = mapped.said is not None
        self._find = reference_finder(mapping.reference_pattern) if mapping.reference_pattern else None

    def example(self, where: str, row: dict[str, Any]) -> Example:
        """The example of a row; raises BadRowError."""
        mapping, text = self._mapping, self.cells.text
        self._look_for_more(where, row)
        said = self._conversation(where, row)
        question, answer = (said.question, said.answer) if said else self._texts(where, row)
        example = Example(
            id="",
            question=question,
            answer=answer,
            reference=self._reference(where, row, answer),
            known_system=self._system(where, row, mapping.system),
            system_message=text(where, row, mapping.system_message) or (said.system_message if said else None),
            history=(said.history or None) if said else None,
        )
        name = text(where, row, mapping.id) or hashlib.sha256(_same_text(example.asked).encode()).hexdigest()[:16]
        return example.model_copy(update={"id": name})

    def _look_for_more(self, where: str, row: dict[str, Any]) -> None:
        """Refuse a row whose pictures or sounds would be left out, and count those whose list of tools is."""
        used = self._mapping.model_dump().values()
        for column in MEDIA_COLUMNS:
            if not row.get(column) or column in used:
                continue
            if self._recognised:
                raise BadRowError(f"{where}: '{column}' is not empty, and only text is trained")
            self.seen[f"have something in '{column}', which is not read"] += 1
        if self._mapping.messages and row.get("tools") and "tools" not in used:
            self.seen["list 'tools' and call none; the model is not told of them"] += 1

    def _conversation(self, where: str, row: dict[str, Any]) -> Conversation | None:
        """The conversation of a row, in one column or in those of question and answer; None: both hold texts."""
        mapping = self._mapping
        if mapping.messages is not None:
            messages = messages_in(row.get(mapping.messages))
            if messages is None:
                raise BadRowError(
                    f"{where}: '{mapping.messages}' holds no messages (role and content, or from and value)"
                )
            return read_conversation(where, {mapping.messages: messages}, self.seen)
        asked, said = (messages_in(row.get(column)) for column in (mapping.question, mapping.answer))
        if asked is None and said is None:
            return None
        asked = asked or [{"role": "user", "content": self._needed(where, row, mapping.question, "question")}]
        said = said or [{"role": "assistant", "content": self._needed(where, row, mapping.answer, "answer")}]
        return read_conversation(where, {mapping.question: asked, mapping.answer: said}, self.seen)

    def _texts(self, where: str, row: dict[str, Any]) -> tuple[str, str]:
        question = self._needed(where, row, self._mapping.question, "question")
        context = self.cells.text(where, row, self._mapping.context)
        return f"{question}\n\n{context}" if context else question, self._needed(
            where, row, self._mapping.answer, "answer"
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
        if not found and self._find is not None:
            found = distinct([_without_commas(self._find(answer))])
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
    ranked = sorted(examples, key=lambda one: hashlib.sha256(f"{seed}:{_same_text(one.asked)}".encode()).digest())
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
