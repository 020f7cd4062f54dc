"""Examples from one source or several: read, filtered, mixed, and assigned to the training or the held-out split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from lorapar.config import ColumnMapping, DataConfig
from lorapar.config.data import CAPTURE
from lorapar.data.choices import ChoiceColumns
from lorapar.data.examples import make_examples, same_text
from lorapar.data.mapping import RECOGNISED_BY, Mapped, UnclearChoicesError, mapping_for
from lorapar.data.mix import CountTokens, SourceCounts, drawn, not_drawn, of_length, repeats, shares, without_repeats
from lorapar.data.readers import RawRow
from lorapar.data.source import Kind, kind_of, source_rows
from lorapar.data.taskmix import generate_task_mix
from lorapar.errors import BadInputError
from lorapar.records import Example, Omission

if TYPE_CHECKING:
    from lorapar.data.captured import AskTeacher, Conversation

_FIELD_OF = {"system": "known_system"}


@dataclass(frozen=True)
class LoadedData:
    """The examples of all sources, and notes about them."""

    examples: list[Example]
    """All rows in the order of the sources, with unique ids."""
    left_out: list[str] = field(default_factory=list)
    """Why rows were left out, one line each (only where `data.bad_rows` allows it)."""
    more: bool = False
    """Whether the source has rows beyond `data.limit`."""
    blank_texts: dict[str, int] = field(default_factory=dict)
    """The number of cells, by column, with a text such as `nan` that counts as empty."""
    notes: list[str] = field(default_factory=list)
    """Lines about what the columns were recognised as, and how files and rows were read."""
    omissions: tuple[Omission, ...] = ()
    """Rows left out because another source asks the same, because of their length, or by the weights of the sources."""
    sources: tuple[SourceCounts, ...] = ()
    """The rows of each of several sources; empty for one."""
    captures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The days, counts and digests of requests by capture, for the lineage."""
    captured_files: dict[str, dict[str, str]] = field(default_factory=dict)
    """The sha256 of each file that was read, by capture."""
    unmatched: frozenset[str] | None = None
    """Ids of a sheet with answers without a request in this capture."""


def load_examples(config: DataConfig, seed: int) -> list[Example]:
    """The examples of `load_data`, without limits in tokens."""
    return load_data(config, seed).examples


def load_data(
    config: DataConfig, seed: int, count_tokens: CountTokens | None = None, ask: AskTeacher | None = None
) -> LoadedData:
    """Read, check, filter, mix and split the sources; equal settings, sources and seed give equal examples.

    The task mix has its own split. Other rows are ranked by a digest of seed and question: the first ones are held out,
    and the next ones are development rows. So the choice does not depend on the order of the rows, and no question is
    on two sides. Development rows of the task mix are drawn from its training rows.

    `count_tokens` is for `data.length`; without it, limits in tokens are left to a caller that has a tokenizer. `ask`
    gets a teacher's answers for rows of a capture that have none; without it these rows are left out. Raises
    BadInputError naming file, line and field, UnreachableError where the hub does not answer.
    """
    if _is_task_mix(config):
        return LoadedData(_task_mix(config, seed))
    read = [_made(part, _raw(part, ask=ask or _nobody_answers), whole=True) for part in config.parts]
    own = without_repeats([one.examples for one in read])
    omissions = [omission for one in read for omission in one.omissions]
    omissions.append(repeats([one.examples for one in read], own))
    kept = []
    for part, examples in zip(config.parts, own, strict=True):
        what = f"rows of {part.source} left out" if config.sources else "rows left out"
        rest, by_length = of_length(examples, config.length, count_tokens, what)
        kept.append(rest)
        omissions.append(by_length)
    for part, rows in zip(config.parts, kept, strict=True):
        if not rows:
            raise BadInputError(
                f"data.source: no row of {part.source} is left: all are outside data.length, or an earlier source asks "
                "the same; change data.length, or leave the source out"
            )
    mixed = drawn(kept, config, seed) if config.sources else kept
    sizes = ([len(rows) for rows in lists] for lists in ([one.examples for one in read], own, kept, mixed))
    counts = [
        SourceCounts(part.source, rows, rows - asked_once, asked_once - fitting, some)
        for part, rows, asked_once, fitting, some in zip(config.parts, *sizes, strict=True)
    ]
    mixing = [*_limits_reached(config, read), *shares(counts)] if config.sources else []
    omissions += not_drawn(counts, config) if config.sources else []
    return LoadedData(
        _split(list(chain.from_iterable(mixed)), config, seed),
        [line for one in read for line in one.left_out],
        any(one.more for one in read),
        dict(sum((Counter(one.blank_texts) for one in read), Counter())),
        [*(note for one in read for note in one.notes), *_unmatched(config, read), *mixing],
        tuple(omissions),
        tuple(counts) if config.sources else (),
        {name: facts for one in read for name, facts in one.captures.items()},
        {name: files for one in read for name, files in one.captured_files.items()},
    )


def load_sample(config: DataConfig, seed: int) -> LoadedData:
    """The first rows of every source, none held out, for `plan`.

    Rows of the hub are read only where the settings leave open what the columns mean, and none where the hub fails.
    Raises like `load_data`.
    """
    if _is_task_mix(config):
        return LoadedData(_task_mix(config, seed)[:RECOGNISED_BY])
    seen = [_sample(part) for part in config.parts]
    examples = [example for one in seen for example in one.examples]
    notes = [note for one in seen for note in one.notes]
    return LoadedData(examples, notes=[*notes, *_unmatched(config, seen)])


def _sample(config: DataConfig) -> LoadedData:
    few = config.model_copy(update={"limit": min(config.limit or RECOGNISED_BY, RECOGNISED_BY)})
    if kind_of(config) is Kind.CAPTURE:  # its rows are counted with its own limit
        raw = _raw(config)
        found = _made(few, replace(raw, rows=raw.rows[: few.limit]))
        return replace(found, notes=[*found.notes, *(one.line for one in found.omissions)])
    if kind_of(config) is not Kind.HUB:
        found = _sample_of_file(config, few)
        return replace(found, notes=[*found.notes, *(one.line for one in found.omissions)])
    if config.mapping is not None or config.columns is not None:
        return LoadedData([])
    try:
        raw = _raw(few, streamed=True)
    except ModuleNotFoundError:
        raise
    except Exception:
        # Not every file that can be downloaded can be streamed; prepare reports whatever is wrong.
        return LoadedData([])
    try:
        return _made(few, raw)
    except UnclearChoicesError as error:
        if not raw.more:
            raise
        return LoadedData([], notes=[f"{error}; these are its first rows, and prepare looks at all of them"])


def _sample_of_file(config: DataConfig, few: DataConfig) -> LoadedData:
    """The first rows; where places may give the right choice, all rows are searched for the first place, 0 or 1."""
    raw = _raw(few)
    try:
        mapped = _mapped(few, raw)
    except UnclearChoicesError:
        if not raw.more:
            raise
    else:
        if not raw.more or not isinstance(mapped.made, ChoiceColumns) or mapped.made.kind == "letter":
            return _made(few, raw, mapped=mapped)
    return _made(few, raw, mapped=_mapped(config, _raw(config)))


@dataclass(frozen=True)
class _Raw:
    rows: list[RawRow]
    more: bool
    notes: list[str]
    omissions: tuple[Omission, ...] = ()
    captures: dict[str, dict[str, Any]] = field(default_factory=dict)
    captured_files: dict[str, dict[str, str]] = field(default_factory=dict)
    unmatched: frozenset[str] | None = None


def _raw(config: DataConfig, *, streamed: bool = False, ask: AskTeacher | None = None) -> _Raw:
    """The raw rows of a source that is not the task mix."""
    if kind_of(config) is Kind.CAPTURE:
        return _captured(config, ask)
    notes: list[str] = []
    source = iter(source_rows(config, notes.append, streamed=streamed))
    rows = list(islice(source, config.limit))
    if not rows:
        raise BadInputError(f"data.source: {config.source} is empty; it needs at least one row")
    return _Raw(rows, config.limit is not None and next(source, None) is not None, notes)


def _nobody_answers(asked: Mapping[str, Conversation]) -> Mapping[str, str]:
    return {}


def _captured(config: DataConfig, ask: AskTeacher | None) -> _Raw:
    from lorapar.data.captured import captured_rows

    found, name = captured_rows(config, ask), config.source.removeprefix(CAPTURE)
    return _Raw(
        found.rows,
        found.more,
        found.notes,
        tuple(found.omissions),
        {name: found.facts},
        {name: found.files},
        found.unmatched,
    )


def _unmatched(config: DataConfig, read: Sequence[LoadedData]) -> list[str]:
    """A line about a sheet's answers to requests that no capture has."""
    if config.capture.file is None:
        return []
    from lorapar.data.captured import unmatched_text

    return unmatched_text(config.capture.file, [one.unmatched for one in read])


def _mapped(config: DataConfig, raw: _Raw) -> Mapped:
    """What the columns of a source mean; the columns of a capture are known."""
    if kind_of(config) is Kind.CAPTURE:
        pattern = config.columns.reference_pattern if config.columns is not None else None
        return Mapped(ColumnMapping(messages="messages", reference="reference", id="id", reference_pattern=pattern))
    columns = dict.fromkeys(chain.from_iterable(row for _, row in raw.rows))
    return mapping_for(config, columns, raw.rows, config.source)


def _made(config: DataConfig, raw: _Raw, *, whole: bool = False, mapped: Mapped | None = None) -> LoadedData:
    """Examples of rows, not yet split; the `whole` source is checked more strictly than its first rows.

    `mapped` is what the columns mean, where that was found from more rows than these.
    """
    mapped = mapped or _mapped(config, raw)
    rows = [(where, mapped.read(row)) for where, row in raw.rows]
    # Nobody can fix what users wrote, so a bad row of theirs ends no run.
    strict = config.bad_rows == "refuse" and kind_of(config) is not Kind.CAPTURE
    made = make_examples(rows, mapped, strict=strict, systems=config.systems)
    if whole and not made.examples:
        raise BadInputError(f"data.source: {config.source} has no usable row; the first: {made.left_out[0]}")
    if whole and mapped.description is None:
        _require_a_reference(made.examples, mapped.columns, config.source)
    recognised = [f"{config.source} is {mapped.description}"] if mapped.description else []
    notes = [*raw.notes, *recognised, *made.notes]
    return LoadedData(
        made.examples,
        made.left_out,
        raw.more,
        made.blank_texts,
        notes,
        raw.omissions,
        captures=raw.captures,
        captured_files=raw.captured_files,
        unmatched=raw.unmatched,
    )


def _is_task_mix(config: DataConfig) -> bool:
    return not config.sources and kind_of(config) is Kind.TASK_MIX


def _task_mix(config: DataConfig, seed: int) -> list[Example]:
    try:
        rows = generate_task_mix(**config.task_mix.model_dump(), seed=seed)
    except ValueError as error:
        raise BadInputError(f"data.task_mix: {error}") from None
    examples = [Example.model_validate({_FIELD_OF.get(key, key): value for key, value in row.items()}) for row in rows]
    return _with_development(examples, config, seed) if config.development else examples


def _with_development(examples: list[Example], config: DataConfig, seed: int) -> list[Example]:
    """Some of the mix's training rows as development rows, all stories of a sum together, so none is memorised."""
    training = [example for example in examples if example.split == "train"]
    wanted = _rows_of("data.development", config.development, len(training))
    groups: dict[str, list[str]] = {}
    for example in training:
        same = example.answer if example.known_system == "system2" else example.question
        groups.setdefault(same, []).append(example.id)
    chosen: set[str] = set()
    for same in sorted(groups, key=lambda one: hashlib.sha256(f"{seed}:development:{one}".encode()).digest()):
        if len(chosen) + len(groups[same]) <= wanted:
            chosen.update(groups[same])
    return [one.model_copy(update={"split": "development"}) if one.id in chosen else one for one in examples]


def _limits_reached(config: DataConfig, read: list[LoadedData]) -> list[str]:
    """Lines about sources with more rows than their own limit."""
    return [
        f"the limit of {part.source} is {part.limit:,}: the rows behind them are not read"
        for part, one in zip(config.parts, read, strict=True)
        if one.more
    ]


def _require_a_reference(examples: list[Example], mapping: ColumnMapping, source: str) -> None:
    """Refuse a pattern that matches no row; a pattern may miss some rows, which then have no reference."""
    if mapping.reference_pattern and not any(example.reference for example in examples):
        raise BadInputError(
            f"data.columns.reference_pattern: '{mapping.reference_pattern}' matches no answer of {source}; "
            f"the first one ends in '{examples[0].answer[-40:]}'"
        )


def _split(examples: list[Example], config: DataConfig, seed: int) -> list[Example]:
    heldout = _rows_of("data.heldout", config.heldout, len(examples))
    development = _rows_of("data.development", config.development, len(examples), heldout)
    ranked = sorted(examples, key=lambda one: hashlib.sha256(f"{seed}:{same_text(one.asked)}".encode()).digest())
    split_of = {example.id: "heldout" for example in ranked[:heldout]}
    split_of |= {example.id: "development" for example in ranked[heldout : heldout + development]}
    return [example.model_copy(update={"split": split_of.get(example.id, "train")}) for example in examples]


def _rows_of(setting: str, size: float, rows: int, taken: int = 0) -> int:
    """The number of rows for a share or a number; raises BadInputError where no row would be left to train on."""
    if size >= 1 and size != int(size):
        raise BadInputError(f"{setting}: {size} is neither a share below 1 nor a whole number of rows")
    count = int(size) if size >= 1 else max(round(size * rows), 1 if size else 0)
    if taken + count >= rows:
        beside = f" beside {taken} that are held out" if taken else ""
        does = "holding out" if setting == "data.heldout" else "setting apart"
        raise BadInputError(
            f"{setting}: {does} {count} of {rows} rows{beside} leaves none to train on; "
            f"{'hold out' if setting == 'data.heldout' else 'set apart'} fewer"
        )
    return count
