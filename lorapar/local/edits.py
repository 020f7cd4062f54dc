"""Labels edited by hand: contested rows out of a run folder as CSV, edited labels back into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorapar.config import RunConfig
from lorapar.errors import BadInputError
from lorapar.local.folder import RunFolder
from lorapar.records import Example, Label, Vote, read_json, read_records, spreadsheet_text, table_csv
from lorapar.store import write_atomically, write_named_file
from lorapar.voting.collect import EXAMPLES, SUMMARY, VOTES
from lorapar.voting.tally import EDITED, HOLD_OUT, ID, LABELS, Edit, edits_csv, parse_edits


@dataclass(frozen=True)
class Exported:
    """What was written."""

    rows: int
    voted: int
    """Rows that have been voted on."""


def with_edits(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The settings with the folder's own edits, where there are some and the settings name no others."""
    if config.edits.source is not None or not folder.edits.is_file():
        return config
    edits = config.edits.model_copy(update={"source": str(folder.edits)})
    return config.model_copy(update={"edits": edits})


def export_rows(folder: RunFolder, file: Path, *, every_row: bool) -> Exported:
    """Write rows with their votes and an empty column for edits, least agreement first; raises BadInputError.

    Rows that no teacher disagrees about and no rule held out are left out unless `every_row` is set. A file that is
    there is replaced only where nothing that a person typed into it would be lost.
    """
    labels, systems = list(read_records(_tally(folder) / LABELS, Label)), _systems(folder)
    shown = [label for label in labels if every_row or is_contested(label)]
    shown.sort(key=lambda label: (label.agreement, label.example_id))
    kept = {label.example_id: label.system or HOLD_OUT for label in labels if label.edited}
    if folder.edits.is_file():
        kept |= parse_edits(folder.edits.read_bytes(), str(folder.edits), systems)
    _refuse_to_lose(file, kept, systems)
    write_named_file(file, table_csv(*_table(folder, shown)))
    return Exported(len(shown), len(labels))


def _refuse_to_lose(file: Path, kept: Mapping[str, Edit], systems: Sequence[str]) -> None:
    """Raise BadInputError where the file holds edits that the run does not have yet, or is no such file at all."""
    if not file.is_file() or file.stat().st_size == 0:
        return
    try:
        typed = parse_edits(file.read_bytes(), str(file), systems)
    except BadInputError as error:
        raise BadInputError(f"{error}; it was not replaced, give another --file") from None
    lost = [row for row, edit in typed.items() if kept.get(row) != edit]
    if lost:
        raise BadInputError(
            f"{file}: holds {len(lost)} edited labels that this run does not have; take them first with `lorapar votes "
            "import`, or give another --file"
        )


def import_edits(folder: RunFolder, file: Path) -> int:
    """Keep the edits of a file in the run folder, where the next run finds them; returns their number.

    Edits of an earlier file are replaced, so a file without any takes them back. Raises BadInputError naming file and
    line, or the row that this run does not know.
    """
    try:
        edits = parse_edits(file.read_bytes(), str(file), _systems(folder))
    except OSError as error:
        raise BadInputError(f"{file}: cannot be read ({error.strerror})") from None
    known = {label.example_id for label in read_records(_tally(folder) / LABELS, Label)}
    strange = sorted(edits.keys() - known)
    if strange:
        raise BadInputError(
            f"{file}: row {strange[0]} is not among the {len(known)} rows that {folder.root} has voted on; export "
            "again and edit that file"
        )
    if edits:
        write_atomically(folder.edits, edits_csv(edits))
    else:
        folder.edits.unlink(missing_ok=True)
    return len(edits)


def is_contested(label: Label) -> bool:
    """Whether teachers disagreed about the row, rules held it out, or a person has set it."""
    return sum(weight > 0 for weight in label.votes.values()) > 1 or label.system is None or bool(label.edited)


def _tally(folder: RunFolder) -> Path:
    if folder.record("tally") is None:
        raise BadInputError(f"{folder.root}: no vote has been counted there; run `lorapar run --until tally` first")
    return folder.artifact("tally", "labels")


def _systems(folder: RunFolder) -> tuple[str, ...]:
    """The systems of the run that is in the folder."""
    return tuple(read_json(_tally(folder) / SUMMARY)["train_rows"])


def _table(folder: RunFolder, labels: list[Label]) -> tuple[list[str], Iterator[list[str]]]:
    ids = {label.example_id for label in labels}
    votes = _votes(folder, ids)
    teachers = list(read_json(_tally(folder) / SUMMARY)["teachers"])
    examples = {
        row.id: row for row in read_records(folder.artifact("prepare", "examples") / EXAMPLES, Example) if row.id in ids
    }
    columns = [ID, EDITED, "label", "agreement", *teachers, "question", "answer"]
    return columns, (_line(label, examples[label.example_id], teachers, votes) for label in labels)


def _votes(folder: RunFolder, ids: set[str]) -> dict[tuple[str, str], str]:
    """What each teacher said about these rows, with its confidence."""
    found = {}
    for node in ("vote-first", "vote-rest"):
        for vote in read_records(folder.artifact(node, "votes") / VOTES, Vote):
            if vote.example_id in ids:
                sure = f" {vote.confidence:.2f}" if vote.confidence is not None else ""
                found[vote.example_id, vote.teacher] = f"{vote.label or 'abstained'}{sure}"
    return found


def _line(label: Label, example: Example, teachers: Iterable[str], votes: dict[tuple[str, str], str]) -> list[str]:
    given = label.system or HOLD_OUT
    return [
        label.example_id,
        given if label.edited else "",
        given,
        f"{label.agreement:.3f}",
        *(votes.get((label.example_id, name), "") for name in teachers),
        spreadsheet_text(example.asked),
        spreadsheet_text(example.answer),
    ]
