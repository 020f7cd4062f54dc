"""Rows of local files, each with its place, so that every error can name file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lorapar.errors import BadInputError, nearest

RawRow = tuple[str, dict[str, Any]]
"""The place of a row (`file:line`, or `file, row N`) and its columns."""


_ARCHIVES = (".zip", ".7z", ".tar", ".tgz", ".rar")
"""Endings of archives."""
_ARROW = "; write Parquet, as datasets.Dataset.from_file(FILE).to_parquet('rows.parquet') does"
_SHEET = "; save the sheet as CSV in UTF-8"
_OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), _ARROW),
    ".txt": "; a text does not say where a question ends; name it by what it holds",
    ".yaml": "; write JSON Lines",
    ".yml": "; write JSON Lines",
    ".xml": "; write JSON Lines",
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".npy", ".npz"), "; such files may run code when they are read: write Parquet"
    ),
}
"""What to do with files of other kinds."""
_MAY_HOLD_ANYTHING = (".txt", ".yaml", ".yml", ".xml")
_ROWS_OF_OTHERS = tuple(ending for ending in _OTHERS if ending not in _MAY_HOLD_ANYTHING)
Log = Callable[[str], None]
"""Takes a line about how a file is read, where its ending does not say so."""


_IN_LIST = "the file must be one list of JSON objects, or one object a line; fix it there"
_NOT_BLANK = re.compile(r"\S")


def _nobody(note: str) -> None:
    pass


def read_rows(path: Path, log: Log = _nobody) -> Iterator[RawRow]:
    """Rows of a file of one of the kinds in `READERS`, in order; raises BadInputError naming file and line or row.

    Text files may be compressed by gzip, bzip2, xz or Zstandard, as `rows.jsonl.gz`. A file's first bytes determine its
    encoding; the default is UTF-8. A header without commas that one other delimiter divides determines the delimiter of
    a .csv file.
    """
    ending = path.suffix.lower()
    reader = READERS.get(row_ending(path.name))
    if reader is None:
        close = _OTHERS.get(ending) or nearest(ending, list(READERS))
        if ending in _ARCHIVES or ending in _UNPACK:
            close = "; unpack it first"
        raise BadInputError(f"data.source: {path}: cannot read '{ending}' files{close}; known: {', '.join(READERS)}")
    if not path.is_file():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInputError(f"data.source: there is no file {path}{nearest(path.name, beside)}")
    return reader(path, log)


def row_ending(name: str) -> str:
    """The ending in `READERS` for a file's format, without its compression; '' where there is none."""
    first, last = ["", "", *PurePosixPath(name.lower()).suffixes][-2:]
    if last in _UNPACK:
        return first if first in READERS and first != ".parquet" else ""
    return last if last in READERS else ""


def is_separated(where: str) -> bool:
    """Whether a row comes from a CSV or TSV file, in which every cell is a text."""
    return row_ending(where.rpartition(":")[0]) in (".csv", ".tsv")


def is_packed(name: str) -> bool:
    """Whether a file is an archive, or is compressed in an unsupported way."""
    ending = PurePosixPath(name.lower()).suffix
    return ending in _ARCHIVES or (ending in _UNPACK and not row_ending(name))


def is_of_another_kind(name: str) -> bool:
    """Whether a file mostly holds rows, and in a way that is not read: a sheet, an Arrow file, a pickle."""
    return PurePosixPath(name.lower()).suffix in _ROWS_OF_OTHERS


def is_unread(name: str) -> bool:
    """Whether a file next to rows deserves a line, because it may hold rows that are not read."""
    return is_packed(name) or is_of_another_kind(name)


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, decompressed if needed. Both forms are held in memory."""
    unpack = _UNPACK.get(path.suffix.lower())
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"data.source: {path} cannot be read: {error.strerror}") from None
    if unpack is None:
        return data
    try:
        return unpack(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise BadInputError(
            f"{path}: cannot be unpacked: {' '.join(str(error).split())}; copy the file again"
        ) from None


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa

    with pa.input_stream(io.BytesIO(data), compression="zstd") as stream:
        return bytes(stream.read())


def _read_text(path: Path, log: Log) -> str:
    """The text of a file, without a byte-order mark."""
    data = _unpacked(path)
    encoding = json.detect_encoding(data)  # by byte-order mark or by the positions of zero bytes (RFC 4627)
    name = encoding.upper().removesuffix("-SIG")
    try:
        text = data.decode("utf-8-sig" if name == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"{path}:{line}: not {name} (byte {data[error.start]:#04x}); save it as UTF-8") from None
    if name != "UTF-8":
        log(f"{path} is read as {name}, which its first bytes show")
    return text


def _jsonl(path: Path, log: Log) -> Iterator[RawRow]:
    """One object in each line; or, with a note, one list of objects, or objects of several lines."""
    text = _read_text(path, log)
    first = next(filter(str.strip, io.StringIO(text, newline="\n")), "")
    begin = first.lstrip()[:1]
    if begin == "[" and (values := _listed(text, first, path)) is not None:
        log(f"{path} is one list of rows, not one row a line")
        yield from (_object(value, f"{path}, row {number}") for number, value in enumerate(values, 1))
    elif begin == "{" and not _is_json(first) and (objects := _of_several_lines(text, path)):
        log(f"{path} has rows of several lines each")
        yield from ((f"{path}:{line}", value) for line, value in objects)
    else:
        yield from _lines(text, path)


def _listed(text: str, first: str, path: Path) -> list[Any] | None:
    """The rows of a file that is one list; None where the first line is already a complete value."""
    if not _is_json(first):
        return list(_parsed(text, path, 1, _IN_LIST))
    value = _parsed(first, path, 1)
    return value if all(isinstance(one, dict) for one in value) and text.strip() == first.strip() else None


_SHOWN = 40
"""Characters of an object's first value that tell it from others."""


class _GivenTwiceError(ValueError):
    """A name stands twice in one object, with two values."""


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a name may stand in it twice only with one value, because no rule says which is meant."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    for name, value in pairs:
        if value is not found[name] and value != found[name]:  # NaN is one value, and not equal to itself
            first, begins = pairs[0][0], str(pairs[0][1])[:_SHOWN]
            raise _GivenTwiceError(
                f"'{name}' stands twice in one object, with two values; keep the right one (it begins with '{first}': "
                f"{begins!r})"
            )
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_one_of_each)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str)  # a number of too many digits is JSON, too
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _of_several_lines(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Consecutive objects, each with the line it begins in; empty where something else is between them."""
    found: list[tuple[int, dict[str, Any]]] = []
    place, line = 0, 1
    while (begin := _NOT_BLANK.search(text, place)) is not None:
        line += text.count("\n", place, begin.start())
        try:
            value, end = _DECODER.raw_decode(text, begin.start())
        except (json.JSONDecodeError, RecursionError):
            return []
        except ValueError as error:
            raise _refused(f"{path}:{line}", error) from None
        if not isinstance(value, dict):
            return []
        found.append((line, value))
        line += text.count("\n", begin.start(), end)
        place = end
    return found


def _lines(text: str, path: Path) -> Iterator[RawRow]:
    # Not splitlines: JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(_parsed(line, path, number), f"{path}:{number}")


def _json(path: Path, log: Log) -> Iterator[RawRow]:
    """A .json file: a list of objects, one object a line, or one object that holds the rows."""
    text = _read_text(path, log)
    values = _parsed(text, path, 1) if text.lstrip().startswith("[") else _inside_one_object(text, path, log)
    if values is None:
        yield from _lines(text, path)
        return
    for number, value in enumerate(values, 1):
        yield _object(value, f"{path}, row {number}")


def _inside_one_object(text: str, path: Path, log: Log) -> list[Any] | None:
    """The rows of a file that is one object around them, with a note; None where it is not, or is a row itself."""
    if not _is_json(text):
        return None
    whole = _parsed(text, path, 1)
    if not isinstance(whole, dict) or not whole:
        return None
    parts = list(whole.values())
    lists = [name for name, part in whole.items() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if len(lists) == 1 and "messages" not in lists and not {"role", "from"} & whole[lists[0]][0].keys():
        log(f"{path} is one object: its rows are those of '{lists[0]}'")
        return list(whole[lists[0]])
    if len(lists) > 1 and len(lists) == len(parts):
        raise BadInputError(
            f"{path}: has several lists of rows, {', '.join(map(repr, lists[:6]))}; write those to train on to a file "
            "of their own"
        )
    if all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1 and len(parts) > 1:
        log(f"{path} holds its columns as lists")
        return [dict(zip(whole, cells, strict=True)) for cells in zip(*parts, strict=True)]
    if len(parts) < 2 or not all(isinstance(part, dict) for part in parts):
        return None
    if all(part.keys() == parts[0].keys() and all(key.isdigit() for key in part) for part in parts):
        log(f"{path} holds its columns by row numbers")
        return [{column: cells[key] for column, cells in whole.items()} for key in parts[0]]
    log(f"{path} is one object: its rows are the values of its {len(parts):,} names")
    return parts


def _parsed(text: str, path: Path, first_line: int, remedy: str = "") -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        how = remedy or _remedy(path)
        raise BadInputError(f"{path}:{line}: not JSON: {error.msg} (column {error.colno}); {how}") from None
    except ValueError as error:
        raise _refused(f"{path}:{first_line}", error) from None
    except RecursionError:
        raise BadInputError(f"{path}:{first_line}: not a row: nested too deeply") from None


def _refused(where: str, error: ValueError) -> BadInputError:
    """The error for JSON that is whole, but has a name twice or a number that Python does not read."""
    if isinstance(error, _GivenTwiceError):
        return BadInputError(f"{where}: {error}")
    return BadInputError(
        f"{where}: not a row: a number has more than {sys.get_int_max_str_digits():,} digits; write it in quotes"
    )


def _remedy(path: Path) -> str:
    return _IN_LIST if row_ending(path.name) == ".json" else "every line must be one whole JSON object; fix this one"


def _object(value: Any, where: str) -> RawRow:
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: expected an object with columns, such as {{...}}, got {type(value).__name__}")
    return where, value


csv.field_size_limit(1 << 30)  # a conversation may exceed the 128 KiB limit of Python's csv
_SEPARATOR_LINE = re.compile(r"sep=([,;|\t])\r?\n", re.IGNORECASE)
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def _csv(path: Path, log: Log) -> Iterator[RawRow]:
    """Comma-separated values with a header, or with the delimiter found in a header without commas."""
    text = _read_text(path, log)
    named = _SEPARATOR_LINE.match(text)
    if named is not None:  # for Excel
        log(f"{path} names {_DELIMITERS.get(named[1], 'commas')} as its separator in the first line")
        yield from _separated(text[named.end() :], named[1], path, log, first_line=2)
        return
    delimiter = _delimiter(text)
    if delimiter != ",":
        log(f"{path} is read with {_DELIMITERS[delimiter]} between its values, as its header has them and no comma")
    yield from _separated(text, delimiter, path, log)


def _tsv(path: Path, log: Log) -> Iterator[RawRow]:
    """Tab-separated values with a header."""
    yield from _separated(_read_text(path, log), "\t", path, log)


def _delimiter(text: str) -> str:
    """The comma, or the only other delimiter in a header without commas."""
    if _header_fields(text, ",") > 1:
        return ","
    found = [one for one in _DELIMITERS if _header_fields(text, one) > 1]
    return found[0] if len(found) == 1 else ","


def _header_fields(text: str, delimiter: str) -> int:
    try:
        return len(next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)), []))
    except csv.Error:
        return 0


class OneOfTwo(str):
    """A cell beside another one whose column has the same name: it cannot be told which is meant."""


def _separated(text: str, delimiter: str, path: Path, log: Log, first_line: int = 1) -> Iterator[RawRow]:
    """Rows under a header; a row's line is the one it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    twice: list[str] = []
    line = first_line
    try:
        for fields in reader:
            if fields and not header:
                header = fields
                twice = [name for name, count in Counter(fields).items() if name.strip() and count > 1]
                for name in twice:
                    log(f"{path}:{line}: two columns are called '{name}'; rename one if it is to be read")
            elif fields and len(fields) != len(header):
                raise BadInputError(
                    f"{path}:{line}: {len(fields)} fields where the header names {len(header)}; put values with "
                    f"{_DELIMITERS.get(delimiter, 'commas')} or line ends in double quotes, and leave no value out"
                )
            elif fields:
                row = dict(zip(header, fields, strict=True))
                for name in twice:
                    if any(one == name and field != row[name] for one, field in zip(header, fields, strict=True)):
                        row[name] = OneOfTwo(row[name])
                yield f"{path}:{line}", row
            line = first_line + reader.line_num
    except csv.Error as error:
        raise BadInputError(f"{path}:{line}: not CSV: {error}") from None


def _parquet(path: Path, log: Log) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInputError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from None


_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _zstd,
}
READERS: dict[str, Callable[[Path, Log], Iterator[RawRow]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".ldjson"), _jsonl),
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
