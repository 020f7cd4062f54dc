"""Labels that a person sets: the CSV file they are written in, and what an edit is.

The file has a row an example with the columns `example_id`, `edited` (a system's name, hold_out, or empty for no edit)
and whatever else helps to decide. Columns may be in any order; others are ignored.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lorapar.config import SYSTEMS, EditsConfig
from lorapar.errors import BadInputError
from lorapar.records import System
from lorapar.store import is_s3, open_store

Edit = str
"""The name of a system, or `hold_out`."""
HOLD_OUT: Edit = "hold_out"
ID, EDITED = "example_id", "edited"


def system_of(edit: Edit) -> System | None:
    """The system an edit gives; None for one that holds the row out."""
    return None if edit == HOLD_OUT else edit


def resolve_edits(config: EditsConfig, systems: Sequence[System] = SYSTEMS) -> EditsConfig:
    """The settings with the file's digest filled in; raises BadInputError where it is not a file of edits."""
    if config.source is None:
        return config
    data = _bytes(config.source)
    parse_edits(data, config.source, systems)
    return config.model_copy(update={"digest": hashlib.sha256(data).hexdigest()})


def load_edits(config: EditsConfig, systems: Sequence[System] = SYSTEMS) -> dict[str, Edit]:
    """Edits by example id; none without a source. Raises BadInputError where the file is not what `plan` saw."""
    if config.source is None:
        return {}
    data = _bytes(config.source)
    if config.digest is not None and hashlib.sha256(data).hexdigest() != config.digest:
        raise BadInputError(f"edits.source: {config.source} has changed since the run was planned; run again")
    return parse_edits(data, config.source, systems)


def parse_edits(data: bytes, source: str, systems: Sequence[System] = SYSTEMS) -> dict[str, Edit]:
    """Edits by example id, to one of the systems or held out; raises BadInputError naming file and line."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
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


def edits_csv(edits: Mapping[str, Edit]) -> str:
    """The edits alone, ordered by id: equal edits, equal bytes."""
    return table_csv((ID, EDITED), sorted(edits.items()))


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV with a heading."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


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
