"""Count the votes on every row, and assign each row its label, system and split.

Counting takes one pass over the examples and one over the votes. A row's votes are a pattern (`lorapar.voting.ballots`)
and rows share pattern strings, so a million rows take about as much memory as their ids.

A person may set labels in a CSV file with one example in each row and the columns `example_id` and `edited` (a system's
name, hold_out, or empty for no edit). Columns may be in any order; others are ignored.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from lorapar.config import SYSTEMS, EditsConfig
from lorapar.config.systems import slot_of
from lorapar.errors import BadInputError
from lorapar.records import Label, System, read_parts, table_csv
from lorapar.store import is_s3, open_store
from lorapar.voting.ballots import NO_VOTE, NOT_ASKED, Ballots
from lorapar.voting.collect import EXAMPLES, VOTES

SHOWN_ROWS = 20
"""How many rows of each label, and how many contested rows, a summary names."""


Split = Literal["train", "heldout", "development"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "development")
LABELS = "labels.jsonl"
Edit = str
"""The name of a system, or `hold_out`."""
HOLD_OUT: Edit = "hold_out"
ID, EDITED = "example_id", "edited"


class _ExampleParts(TypedDict):
    """The fields of an example that counting needs."""

    id: str
    known_system: NotRequired[System | None]
    split: NotRequired[Split]


class _VoteParts(TypedDict):
    """The fields of a vote that counting needs."""

    example_id: str
    teacher: str
    label: NotRequired[System | None]
    confidence: NotRequired[float | None]
    tokens: NotRequired[int]
    uncalibrated: NotRequired[System | None]


_EXAMPLE: TypeAdapter[_ExampleParts] = TypeAdapter(_ExampleParts)
_VOTE: TypeAdapter[_VoteParts] = TypeAdapter(_VoteParts)


class Count:
    """The votes on all rows that teachers are asked about. Rows are numbered in the order of the examples."""

    def __init__(self, ballots: Ballots) -> None:
        self.ballots = ballots
        self.row_of: dict[str, int] = {}
        self.patterns: list[str] = []
        self.plain_patterns: list[str] | None = None
        """Patterns before teachers' biases were subtracted; None where votes are not calibrated."""
        self.gold: list[System | None] = []
        """The known system of each row, where the data names it."""
        self.splits = bytearray()
        """The split of each row, by its place in `SPLITS`."""
        self.rows_of_examples = array("q")
        """The row of each example; negative for an example without a vote, whose split and system `unasked` returns."""
        self.lean = array("d")
        """Confidence for the first system minus confidence for the others, summed over a row's votes."""
        self.rows_of_votes = array("q")
        """The row of each vote, in the order the votes were read."""
        self.edits: dict[int, Edit] = {}
        """The label that a person has set for a row, whatever its votes say."""
        self.given: dict[int, System] = {}
        """Labels of training rows by chance or from the data, in place of votes; no teacher is asked about them."""
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.abstained: Counter[str] = Counter()
        """Rows that each teacher refused to answer."""
        self.known_heldout: Counter[str] = Counter()
        """Held-out rows without a vote, by the system that the data name."""

    def read_examples(self, path: Path) -> None:
        """Number the rows; raises BadInputError for a repeated id."""
        nobody, row_of, number = self.ballots.nobody, self.row_of, 0
        for example in read_parts(path, _EXAMPLE, "Example"):
            known, split = example.get("known_system"), example.get("split", "train")
            if split != "train" and known is not None:
                self.known_heldout[known] += split == "heldout"
                place = SPLITS.index(split) * len(self.ballots.systems) + self.ballots.systems.index(known)
                self.rows_of_examples.append(-1 - place)
                continue
            given = self.ballots.given.label(example["id"], split, known)
            if given is not None:
                self.given[number] = given
            if row_of.setdefault(example["id"], number) != number:
                raise BadInputError(f"{path}: the id {example['id']} is there twice; ids must differ")
            self.rows_of_examples.append(number)
            self.gold.append(known)
            self.splits.append(SPLITS.index(split))
            number += 1
        self.patterns = [nobody] * number
        self.lean = array("d", bytes(8 * number))

    def unasked(self, row: int) -> tuple[Split, System]:
        """Split and known system of an example without a vote, from its number in `rows_of_examples`."""
        split, system = divmod(-1 - row, len(self.ballots.systems))
        return SPLITS[split], self.ballots.systems[system]

    def read_votes(self, paths: Iterable[Path]) -> None:
        """Add all votes; raises BadInputError for unknown rows and teachers and for second votes."""
        for path in paths:
            for vote in read_parts(path, _VOTE, "Vote"):
                row = self.row_of.get(vote["example_id"])
                if row is None:
                    raise BadInputError(
                        f"{path}: a vote of teacher '{vote['teacher']}' is on row {vote['example_id']}, which is not "
                        "among the rows to vote on; the votes belong to other data, run the vote stage again"
                    )
                self._add(row, vote)

    def _add(self, row: int, vote: _VoteParts) -> None:
        name, label = vote["teacher"], vote.get("label")
        before = self.patterns[row]
        self.patterns[row] = self.ballots.add(before, vote["example_id"], name, label)
        plain = vote.get("uncalibrated")
        if plain is not None:
            if self.plain_patterns is None:
                self.plain_patterns = [self.ballots.without_votes(pattern) for pattern in self.patterns]
            self.plain_patterns[row] = self.ballots.add(self.plain_patterns[row], vote["example_id"], name, plain)
        self.rows_of_votes.append(row)
        if label is None:
            self._abstain(row, vote)
            return
        sure = vote.get("confidence")
        sure = 1.0 if sure is None else sure
        self.lean[row] += sure if label == self.ballots.systems[0] else -sure
        self.calls[name] += 1
        self.tokens[name] += vote.get("tokens", 0)

    def _abstain(self, row: int, vote: _VoteParts) -> None:
        self.abstained[vote["teacher"]] += 1
        if self.plain_patterns is not None:
            plain = self.plain_patterns[row]
            self.plain_patterns[row] = self.ballots.add(plain, vote["example_id"], vote["teacher"], None)

    def excuse(self, names: Collection[str]) -> None:
        """Note that these teachers failed: their missing votes will not come."""
        if not names:
            return
        mark = cache(lambda pattern: self.ballots.mark_absent(pattern, names))
        self.patterns = [mark(pattern) for pattern in self.patterns]
        if self.plain_patterns is not None:
            self.plain_patterns = [mark(pattern) for pattern in self.plain_patterns]

    def edit(self, edits: Mapping[str, Edit], source: str) -> None:
        """Apply labels that a person has set; raises BadInputError for a row that is not voted on."""
        for example_id, edit in edits.items():
            row = self.row_of.get(example_id)
            if row is None:
                raise BadInputError(
                    f"{source}: there is no row {example_id} among the rows that are voted on; the data have changed "
                    "since it was exported: take the line out, or export and edit again"
                )
            self.edits[row] = edit

    def check_complete(self, round_name: str) -> None:
        """Raise BadInputError where a vote of the round is missing."""
        absent = {pattern: self._absent(pattern, round_name) for pattern in set(self.patterns)}
        if not any(absent.values()):
            return
        for example_id, row in self.row_of.items():
            if absent[self.patterns[row]] and row not in self.given:
                raise BadInputError(
                    f"row {example_id}: the votes of {', '.join(absent[self.patterns[row]])} are missing, so it has no "
                    "label; give tally the votes of both rounds, made with these settings"
                )

    def _absent(self, pattern: str, round_name: str) -> list[str]:
        """Names of the teachers whose votes are missing from the round."""
        names = self.ballots.teachers
        unasked = [name for name, mark in zip(names, pattern, strict=True) if mark == NOT_ASKED]
        first = [name for name in unasked if name in names[: self.ballots.first_round]]
        return first or ([] if round_name == "first" or self.ballots.outcome(pattern).decided else unasked)

    def counted(self) -> Counter[str]:
        """How many rows that are voted on have each pattern."""
        return Counter(pattern for row, pattern in enumerate(self.patterns) if row not in self.given)

    def shown(self, system: System) -> list[str]:
        """Ids of a few rows decided for a system, evenly spread over the data, so that sorted data show every kind."""
        outcomes = {pattern: self.ballots.outcome(pattern) for pattern in set(self.patterns)}
        own = {pattern for pattern, outcome in outcomes.items() if outcome.decided and outcome.system == system}
        rows = array("q", (row for row, pattern in enumerate(self.patterns) if pattern in own))
        chosen = {rows[place * len(rows) // SHOWN_ROWS] for place in range(SHOWN_ROWS)} if rows else set()
        return self._ids(sorted(chosen))

    def contested(self) -> list[str]:
        """Ids of the rows with the most disagreement: lowest agreement first, then lowest total confidence."""
        outcome = self.ballots.outcome
        torn = (pattern for pattern in set(self.patterns) if len(set(pattern).difference(NO_VOTE)) > 1)
        split = {pattern: outcome(pattern).agreement for pattern in torn}
        rows = (row for row, pattern in enumerate(self.patterns) if pattern in split)
        return self._ids(
            heapq.nsmallest(SHOWN_ROWS, rows, key=lambda row: (split[self.patterns[row]], abs(self.lean[row]), row))
        )

    def _ids(self, rows: list[int]) -> list[str]:
        wanted = set(rows)
        ids = {row: example_id for example_id, row in self.row_of.items() if row in wanted}
        return [ids[row] for row in rows]


@dataclass
class Assigned:
    """Rows written, by system."""

    systems: tuple[System, ...]
    rows: Counter[str] = field(default_factory=Counter)
    """Keys are `train system1` and so on, and `undecided`."""

    def of(self, split: str) -> dict[str, int]:
        """Rows of a split by system."""
        return {system: self.rows[f"{split} {system}"] for system in self.systems}


def assign(count: Count, examples: Path, folders: Mapping[str, Path]) -> Assigned:
    """Write labels.jsonl of all voted rows, and each row of `examples`, unchanged, to the folder of its outcome.

    `folders` are labels, undecided, system1, system2 (train rows; `slot_of` says which system has which slot) and
    heldout. Rows held out of all systems have a label without a system and are written nowhere else. Development rows
    are counted separately: publish finds them by their labels. `examples` is the file that `count` has read.
    """
    writer = _Labels(count)
    systems = count.ballots.systems
    assigned = Assigned(systems)
    ids = iter(count.row_of)
    with ExitStack() as stack:
        files = {key: stack.enter_context(path.open("wb")) for key, path in _paths(folders, systems).items()}
        lines = stack.enter_context(examples.open("rb"))
        for line, row in zip(lines, count.rows_of_examples, strict=True):
            if row < 0:
                key: str | None = " ".join(count.unasked(row))
            else:
                files["labels"].write(writer.line(row, next(ids)))
                key = writer.place(row)
            if key is not None:
                if key in files:
                    files[key].write(line if line.endswith(b"\n") else line + b"\n")
                assigned.rows[key] += 1
    return assigned


class _Labels:
    """The label of each row. Rows of one pattern differ only in their id; the rest is rendered once."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._after_id = cache(self._text)
        self._key = cache(self._place)

    def line(self, row: int, example_id: str) -> bytes:
        """The row's line of labels.jsonl."""
        start = '{"example_id":' + json.dumps(example_id, ensure_ascii=False)
        edit, given = self._count.edits.get(row), self._count.given.get(row)
        return (start + self._after_id(self._count.patterns[row], edit, given)).encode()

    def place(self, row: int) -> str | None:
        """The row's file, as a key of `_paths`; None: no file."""
        split = SPLITS[self._count.splits[row]]
        return self._key(self._count.patterns[row], self._count.edits.get(row), self._count.given.get(row), split)

    def _text(self, pattern: str, edit: Edit | None, given: System | None) -> str:
        outcome = self._count.ballots.outcome(pattern)
        label = Label(
            example_id="",
            system=given or outcome.system if edit is None else system_of(edit),
            votes=self._count.ballots.weights(pattern),
            agreement=outcome.agreement,
            tied=outcome.tied,
            decided=outcome.decided or edit is not None or given is not None,
            edited=True if edit is not None else None,
            given=None if given is None else self._count.ballots.given.labels,
        )
        unsaid = {name for name in ("edited", "given") if getattr(label, name) is None}
        text = label.model_dump_json(exclude=unsaid)
        return text.removeprefix('{"example_id":""') + "\n"

    def _place(self, pattern: str, edit: Edit | None, given: System | None, split: Split) -> str | None:
        outcome = self._count.ballots.outcome(pattern)
        if edit is None and given is None and not outcome.decided:
            return "undecided"
        system = given or outcome.system if edit is None else system_of(edit)
        return None if system is None else f"{split} {system}"


def assign_open_votes(count: Count, votes: Sequence[Path], undecided: Path) -> None:
    """Write the votes on undecided rows next to these rows: the next round uses them to decide which teachers to ask.

    `votes` are the files that `count` has read, in that order.
    """
    outcome, patterns = count.ballots.outcome, count.patterns
    with (undecided / VOTES).open("wb") as file:
        for row, line in zip(count.rows_of_votes, _lines(votes), strict=True):
            if not outcome(patterns[row]).decided:
                file.write(line)


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from file


def _paths(folders: Mapping[str, Path], systems: Sequence[System]) -> dict[str, Path]:
    paths = {"labels": folders["labels"] / LABELS, "undecided": folders["undecided"] / EXAMPLES}
    for system in systems:
        slot, file = slot_of(systems, system)
        paths[f"train {system}"] = folders[slot] / file
        paths[f"heldout {system}"] = folders["heldout"] / f"{system}.jsonl"
    return paths


def system_of(edit: Edit) -> System | None:
    """The system an edit gives; None for one that holds the row out."""
    return None if edit == HOLD_OUT else edit


def resolve_edits(config: EditsConfig, systems: Sequence[System] = SYSTEMS) -> EditsConfig:
    """The settings with the file's digest; raises BadInputError where it is not a file of edits."""
    if config.source is None:
        return config
    data = _bytes(config.source)
    parse_edits(data, config.source, systems)
    return config.model_copy(update={"digest": hashlib.sha256(data).hexdigest()})


def load_edits(config: EditsConfig, systems: Sequence[System] = SYSTEMS) -> dict[str, Edit]:
    """Edits by example id; empty without a source. Raises BadInputError where the file has changed since `plan`."""
    if config.source is None:
        return {}
    data = _bytes(config.source)
    if config.digest is not None and hashlib.sha256(data).hexdigest() != config.digest:
        raise BadInputError(f"edits.source: {config.source} has changed since the run was planned; run again")
    return parse_edits(data, config.source, systems)


def parse_edits(data: bytes, source: str, systems: Sequence[System] = SYSTEMS) -> dict[str, Edit]:
    """Edits by example id, to one of the systems or held out; raises BadInputError naming file and line."""
    try:
        text = data.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        columns = reader.fieldnames or ()
        missing = [name for name in (ID, EDITED) if name not in columns]
        if missing:
            raise BadInputError(
                f"{source}: has no column '{missing[0]}'; take a file that `lorapar votes export` wrote and fill in "
                f"its column '{EDITED}'"
            )
        return _edits(reader, source, (*systems, HOLD_OUT))
    except UnicodeDecodeError as error:
        raise BadInputError(f"{source}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise BadInputError(f"{source}: not a CSV file: {error}") from None


def _delimiter(text: str) -> str:
    """What parts the columns: where a comma is for decimals, spreadsheets write a semicolon; the ids have neither."""
    header = text.splitlines()[0] if text else ""
    return next((mark for mark in ";\t" if {ID, EDITED} <= set(header.replace('"', "").split(mark))), ",")


def edits_csv(edits: Mapping[str, Edit]) -> str:
    """Only the edits, ordered by id: equal edits give equal bytes."""
    return table_csv((ID, EDITED), sorted(edits.items()))


def _edits(reader: csv.DictReader[str], source: str, known: Sequence[Edit]) -> dict[str, Edit]:
    found: dict[str, Edit] = {}
    for row in reader:
        example_id, edited = row[ID] or "", (row[EDITED] or "").strip()
        if not edited:
            continue
        if edited not in known:
            raise BadInputError(
                f"{source}:{reader.line_num}: {EDITED} is '{edited}'; write {', '.join(known)} or leave it empty"
            )
        if found.setdefault(example_id, edited) != edited:
            raise BadInputError(f"{source}:{reader.line_num}: row {example_id} is edited twice, in different ways")
    return found


def _bytes(source: str) -> bytes:
    if is_s3(source):
        folder, _, name = source.rpartition("/")
        return open_store(folder).read(name)
    try:
        return Path(source).expanduser().read_bytes()
    except OSError as error:
        raise BadInputError(f"edits.source: {source} cannot be read: {error.strerror}") from None
