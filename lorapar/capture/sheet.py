"""The spreadsheet in which a person writes answers: a CSV file with one row for each request, by its id."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorapar.capture.records import CapturedRequest, Feedback, answer_by_feedback
from lorapar.errors import BadInputError
from lorapar.records import spreadsheet_text, table_csv

ID, ANSWER, REFERENCE = "request_id", "answer", "reference"
_COLUMNS = (ID, ANSWER, REFERENCE, "said", "asked", "given_answer", "adapter", "captured_at")


@dataclass(frozen=True)
class WrittenAnswer:
    """What a person wrote into one row."""

    answer: str
    reference: str | None
    """The short exact answer, for rewards; None where the column is empty or not there."""


def sheet_rows(
    requests: Iterable[CapturedRequest], feedback: Mapping[str, Feedback], *, every_row: bool
) -> list[CapturedRequest]:
    """Requests that lack an answer to learn, or all; of an id that came twice the newest, as a run takes it."""
    newest = {one.request_id: one for one in sorted(requests, key=lambda one: one.captured_at)}
    return [
        one for one in newest.values() if every_row or answer_by_feedback(one, feedback.get(one.request_id)) is None
    ]


def sheet_csv(requests: Iterable[CapturedRequest], feedback: Mapping[str, Feedback]) -> str:
    """The sheet, its columns `answer` and `reference` empty; what users wrote is no formula in a spreadsheet."""
    return table_csv(_COLUMNS, (_line(one, feedback.get(one.request_id)) for one in requests))


def _line(request: CapturedRequest, feedback: Feedback | None) -> list[str]:
    words = "" if feedback is None else {True: "good", False: "bad", None: ""}[feedback.good]
    if feedback is not None and feedback.answer:
        words = f"{words}; better: {feedback.answer}".removeprefix("; ")
    asked = "\n\n".join(f"{one.role}: {one.content}" for one in request.messages)
    shown = [words, asked, request.answer, f"{request.adapter}@{request.version}", request.captured_at.isoformat()]
    return [request.request_id, "", "", *map(spreadsheet_text, shown)]


def parse_sheet(data: bytes, source: str) -> dict[str, WrittenAnswer]:
    """What was written, by request id; rows without an answer are left out. Raises BadInputError naming the line."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = reader.fieldnames or ()
        for name in (ID, ANSWER):
            if name not in columns:
                raise BadInputError(
                    f"{source}: has no column '{name}'; take a file that `lorapar capture export` wrote and fill "
                    f"in its column '{ANSWER}'"
                )
        return _written(reader, source)
    except UnicodeDecodeError as error:
        raise BadInputError(f"{source}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise BadInputError(f"{source}: not a CSV file: {error}") from None


def _written(reader: csv.DictReader[str], source: str) -> dict[str, WrittenAnswer]:
    found: dict[str, WrittenAnswer] = {}
    for row in reader:
        request_id, answer = (row[ID] or "").strip(), (row[ANSWER] or "").strip()
        if not answer:
            continue
        if not request_id:
            raise BadInputError(f"{source}:{reader.line_num}: an answer without a {ID}; export the sheet again")
        if request_id in found:
            raise BadInputError(f"{source}:{reader.line_num}: the request {request_id} is answered twice; keep one")
        found[request_id] = WrittenAnswer(answer, (row.get(REFERENCE) or "").strip() or None)
    return found
