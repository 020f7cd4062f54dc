"""What is kept of one request, and what a person said of its answer afterwards; and both as Parquet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from lorapar.errors import IntegrityError

_ID_DIGITS = 16
SCHEMA_VERSION = "1"
WHOLE = "stop"
"""How an answer ends that may be learnt; others were cut off."""


def request_digest(request_id: str) -> str:
    """What stands for a request where its id must not: in records of deletions, lineages, and as the id of its row."""
    return hashlib.sha256(f"lorapar capture\n{request_id}".encode()).hexdigest()[:_ID_DIGITS]


class Message(BaseModel):
    """One message of a request."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    role: str
    content: str


class CapturedRequest(BaseModel):
    """One request with its answer, redacted. No header, key, address of a client or setting of sampling is in it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    request_id: str
    captured_at: datetime
    adapter: str
    version: int
    alias: str | None
    """The alias that was asked for; None where a version was."""
    endpoint: Literal["chat", "completion"]
    messages: tuple[Message, ...]
    answer: str
    finish_reason: str | None
    """As the server gave it: `stop`, or `length` for an answer that was cut off."""
    user: str | None = None
    """The request's field `user`; only where the settings ask for it."""
    redacted: int = 0
    """How often the rules found something in it."""
    redacted_by: dict[str, int] = {}
    """The same by rule."""

    @property
    def day(self) -> str:
        """The day it is under, in UTC."""
        return self.captured_at.astimezone(UTC).date().isoformat()


class Feedback(BaseModel):
    """What a person said of an answer: whether it was good, a better one, or both."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    request_id: str
    captured_at: datetime
    good: bool | None = None
    answer: str | None = None
    """The answer that should have been given, redacted."""
    redacted: int = 0

    @property
    def day(self) -> str:
        """The day it is under, in UTC: its own, not its request's."""
        return self.captured_at.astimezone(UTC).date().isoformat()


Row = TypeVar("Row", CapturedRequest, Feedback)


def latest_feedback(feedback: Iterable[Feedback]) -> dict[str, Feedback]:
    """The last word on each request, by its id; of two at one moment always the same one."""
    ordered = sorted(feedback, key=lambda one: (one.captured_at, str(one.good), one.answer or ""))
    return {one.request_id: one for one in ordered}


def answer_by_feedback(
    request: CapturedRequest, feedback: Feedback | None
) -> tuple[str, Literal["person", "praised"]] | None:
    """The answer that is learnt by what a person said last, and whose it is: a better one, or the praised one.

    None where nobody had a word on it, where it was only blamed, or where the praised answer was cut off.
    """
    if feedback is not None and feedback.answer:
        return feedback.answer, "person"
    if feedback is not None and feedback.good and request.finish_reason == WHOLE:
        return request.answer, "praised"
    return None


def _schema(kind: type[Row]) -> Any:
    import pyarrow as pa

    text: Any = pa.string()
    moment: Any = pa.timestamp("us", tz="UTC")
    common: list[Any] = [("request_id", text), ("captured_at", moment)]
    of_feedback: list[Any] = [("good", pa.bool_()), ("answer", text), ("redacted", pa.int32())]
    of_request: list[Any] = [
        *(("adapter", text), ("version", pa.int32()), ("alias", text), ("endpoint", text)),
        ("messages", pa.list_(pa.struct([("role", text), ("content", text)]))),
        *(("answer", text), ("finish_reason", text), ("user", text), ("redacted", pa.int32())),
        ("redacted_by", pa.map_(text, pa.int32())),
    ]
    columns = [*common, *(of_feedback if kind is Feedback else of_request)]
    return pa.schema(columns, metadata={"lorapar.capture": SCHEMA_VERSION})


def to_parquet(rows: Sequence[Row]) -> bytes:
    """The rows, all of one kind, as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [row.model_dump() for row in rows]
    for value in values:
        if "redacted_by" in value:
            value["redacted_by"] = sorted(value["redacted_by"].items())
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values, schema=_schema(type(rows[0]))), file, compression="zstd")
    return file.getvalue()


def from_parquet(data: bytes, kind: type[Row], where: str) -> list[Row]:
    """The rows of a file that `to_parquet` made; raises IntegrityError naming `where` it lies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        values = pq.read_table(pa.BufferReader(data)).to_pylist(maps_as_pydicts="strict")
        return [kind.model_validate(value) for value in values]
    except (pa.ArrowException, ValueError) as error:
        raise IntegrityError(
            f"{where}: not a file of captured requests ({' '.join(str(error).split())[:200]}); remove it"
        ) from None
