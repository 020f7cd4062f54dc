"""Rows of local files, each with the place it stands at, so that every complaint can name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError, nearest

RawRow = tuple[str, dict[str, Any]]
"""Where the row stands (`file:line`, or `file, row N`) and its columns."""


def read_rows(path: Path) -> Iterator[RawRow]:
    """Rows of a .jsonl, .json, .csv or .parquet file, in order; raises BadInputError naming file and line or row."""
    ending = path.suffix.lower()
    reader = READERS.get(ending)
    if reader is None:
        close = nearest(ending, list(READERS))
        raise BadInputError(f"data.source: {path}: cannot read '{ending}' files{close}; known: {', '.join(READERS)}")
    if not path.is_file():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInputError(f"data.source: there is no file {path}{nearest(path.name, beside)}")
    return reader(path)


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte-order mark aside."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"data.source: {path} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None


def _jsonl(path: Path) -> Iterator[RawRow]:
    # Not splitlines: JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            yield _object(_parsed(line, path, number), f"{path}:{number}")


def _json(path: Path) -> Iterator[RawRow]:
    """A .json file: one list of objects, or one object a line."""
    text = _read_text(path)
    if not text.lstrip().startswith("["):
        yield from _jsonl(path)
        return
    for number, value in enumerate(_parsed(text, path, 1), 1):
        yield _object(value, f"{path}, row {number}")


def _parsed(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise BadInputError(f"{path}:{line}: not JSON: {error.msg} (column {error.colno}); {_remedy(path)}") from None
    except RecursionError:
        raise BadInputError(f"{path}:{first_line}: not a row: nested too deeply") from None


def _remedy(path: Path) -> str:
    if path.suffix.lower() == ".jsonl":
        return "every line must be one whole JSON object; mend this one"
    return "the file must be one list of JSON objects, or one object a line; mend it there"


def _object(value: Any, where: str) -> RawRow:
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: expected an object with columns, such as {{...}}, got {type(value).__name__}")
    return where, value


def _csv(path: Path) -> Iterator[RawRow]:
    """Comma-separated values with a header; the line of a row is the one it begins in."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            if fields and not header:
                header = fields
            elif fields and len(fields) != len(header):
                raise BadInputError(
                    f"{path}:{line}: {len(fields)} fields where the header names {len(header)}; put values with commas "
                    "or line ends in double quotes, and leave no value out"
                )
            elif fields:
                yield f"{path}:{line}", dict(zip(header, fields, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInputError(f"{path}:{line}: not CSV: {error}") from None


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInputError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from None


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
