"""Deal the rows to where their votes send them: a label each, and the rows themselves by system and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lorapar.records import Example, Label, System, read_records
from lorapar.voting.ballots import MARKS, is_voted_on
from lorapar.voting.collect import EXAMPLES, VOTES
from lorapar.voting.count import Count

LABELS = "labels.jsonl"


@dataclass
class Dealt:
    """Rows written, by system."""

    train: Counter[str] = field(default_factory=Counter)
    heldout: Counter[str] = field(default_factory=Counter)
    undecided: int = 0


def deal(count: Count, examples: Path, folders: Mapping[str, Path]) -> Dealt:
    """Write labels.jsonl of all voted rows, and each row to the folder of its outcome.

    `folders` are labels, undecided, system1, system2 (train rows) and heldout. Rows that are held out of both systems
    have a label without a system and go nowhere else.
    """
    dealt = Dealt()
    with ExitStack() as stack:
        files = {key: stack.enter_context(path.open("w", encoding="utf-8")) for key, path in _paths(folders).items()}
        for example in read_records(examples, Example):
            key = _label(count, example, files["labels"]) if is_voted_on(example) else _split_key(example, None)
            if key is None:
                continue
            files[key].write(example.model_dump_json(exclude_none=True) + "\n")
            _book(dealt, key)
    return dealt


def deal_open_votes(count: Count, votes: Sequence[Path], undecided: Path) -> None:
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


def _paths(folders: Mapping[str, Path]) -> dict[str, Path]:
    paths = {"labels": folders["labels"] / LABELS, "undecided": folders["undecided"] / EXAMPLES}
    for system in MARKS:
        paths[f"train {system}"] = folders[system] / EXAMPLES
        paths[f"heldout {system}"] = folders["heldout"] / f"{system}.jsonl"
    return paths


def _label(count: Count, example: Example, file: TextIO) -> str | None:
    """Write the label of a voted row; returns where the row itself goes."""
    pattern = count.patterns[count.row_of[example.id]]
    outcome = count.ballots.outcome(pattern)
    label = Label(
        example_id=example.id,
        system=outcome.system,
        votes=count.ballots.weights(pattern),
        agreement=outcome.agreement,
        tied=outcome.tied,
        decided=outcome.decided,
    )
    file.write(label.model_dump_json() + "\n")
    if not outcome.decided:
        return "undecided"
    return None if outcome.system is None else _split_key(example, outcome.system)


def _split_key(example: Example, voted: System | None) -> str:
    return f"{example.split} {voted or example.known_system}"


def _book(dealt: Dealt, key: str) -> None:
    split, _, system = key.partition(" ")
    if key == "undecided":
        dealt.undecided += 1
    elif split == "train":
        dealt.train[system] += 1
    else:
        dealt.heldout[system] += 1
