"""Assign the rows to where their votes send them: a label each, and the rows themselves by system and split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lorapar.config.systems import slot_of
from lorapar.records import Label, System
from lorapar.voting.collect import EXAMPLES, VOTES
from lorapar.voting.count import Count
from lorapar.voting.edits import Edit, system_of

LABELS = "labels.jsonl"


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
    """Write labels.jsonl of all voted rows, and each row to the folder of its outcome, as it stands in `examples`.

    `folders` are labels, undecided, system1, system2 (train rows, `slot_of` says whose are where) and heldout. Rows
    that are held out of all systems have a label without a system and go nowhere else. `examples` is the file that
    `count` has read.
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
                key: str | None = f"heldout {systems[-1 - row]}"
            else:
                files["labels"].write(writer.line(row, next(ids)))
                key = writer.place(row)
            if key is not None:
                files[key].write(line if line.endswith(b"\n") else line + b"\n")
                assigned.rows[key] += 1
    return assigned


class _Labels:
    """The label of each row. All but the id is the same for rows of one pattern, so it is written once a pattern."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._after_id = cache(self._text)
        self._key = cache(self._place)

    def line(self, row: int, example_id: str) -> bytes:
        """The row's line of labels.jsonl."""
        start = '{"example_id":' + json.dumps(example_id, ensure_ascii=False)
        return (start + self._after_id(self._count.patterns[row], self._count.edits.get(row))).encode()

    def place(self, row: int) -> str | None:
        """Where the row itself goes, as a key of `_paths`; None: nowhere."""
        return self._key(self._count.patterns[row], self._count.edits.get(row), bool(self._count.heldout[row]))

    def _text(self, pattern: str, edit: Edit | None) -> str:
        outcome = self._count.ballots.outcome(pattern)
        label = Label(
            example_id="",
            system=outcome.system if edit is None else system_of(edit),
            votes=self._count.ballots.weights(pattern),
            agreement=outcome.agreement,
            tied=outcome.tied,
            decided=outcome.decided or edit is not None,
            edited=True if edit is not None else None,
        )
        text = label.model_dump_json(exclude={"edited"} if edit is None else None)
        return text.removeprefix('{"example_id":""') + "\n"

    def _place(self, pattern: str, edit: Edit | None, heldout: bool) -> str | None:
        outcome = self._count.ballots.outcome(pattern)
        if edit is None and not outcome.decided:
            return "undecided"
        system = outcome.system if edit is None else system_of(edit)
        return None if system is None else f"{'heldout' if heldout else 'train'} {system}"


def assign_open_votes(count: Count, votes: Sequence[Path], undecided: Path) -> None:
    """Put the votes already cast on undecided rows beside them: the next round decides with them whom to ask.

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
