"""The documents of `lorapar capture`, and how they are made from what is in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from lorapar.cli.documents import Document
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from lorapar.capture import Capture


class CaptureSummary(Document):
    """A capture."""

    name: str = Field(description="Its name.")
    first_day: str | None = Field(description="First day of which something is kept, in UTC; `null`: nothing is.")
    last_day: str | None = Field(description="Last such day.")
    files: int = Field(description="Parquet files.")
    size_bytes: int = Field(description="Their size.")
    retention_days: int | None = Field(description="Days that are kept; `null`: no server has written its settings.")


class Captures(Document):
    """`lorapar capture list`"""

    store: str = Field(description="Address of the store.")
    captures: list[CaptureSummary] = Field(description="Every capture in it.")


class CaptureDay(Document):
    """A day of a capture."""

    day: str = Field(description="In UTC.")
    requests: int = Field(description="Requests kept.")
    redactions: int = Field(description="What rules found in them.")


class CaptureContents(Document):
    """`lorapar capture show`"""

    summary: CaptureSummary = Field(description="Days and sizes.")
    settings: dict[str, JsonValue] | None = Field(description="By which it is kept; `null`: not written yet.")
    requests: int = Field(description="Requests kept.")
    adapters: dict[str, int] = Field(description="How many each version answered.")
    praised: int = Field(description="Answers that a person called good; as below, the last word on each counts.")
    blamed: int = Field(description="Answers that a person called bad.")
    corrected: int = Field(description="Answers that a person gave a better one for.")
    redactions: dict[str, int] = Field(description="What rules found, by rule.")
    deleted: int = Field(description="Requests that were deleted by their id.")
    days: list[CaptureDay] = Field(description="Each day.")


class CapturedDocument(Document):
    """`lorapar capture show --request-id`"""

    request_id: str = Field(description="The request.")
    requests: list[dict[str, JsonValue]] = Field(description="What is kept of it, as in the Parquet files.")
    feedback: list[dict[str, JsonValue]] = Field(description="What persons said of its answer.")


class DeletedRequest(Document):
    """A request that is deleted."""

    request_id: str = Field(description="As it was named.")
    digest: str = Field(description="What stands for it in lineages and as the id of its row.")
    requests: int = Field(description="Rows deleted; 0: none was there.")
    feedback: int = Field(description="Remarks deleted.")
    files: int = Field(description="Parquet files that were rewritten or removed.")
    trained: list[str] | None = Field(
        description="Versions trained on it, or going on from one that was; `null`: no registry was looked at."
    )


class DeletedDocument(Document):
    """`lorapar capture delete`"""

    capture: str = Field(description="Its name.")
    deleted: list[DeletedRequest] = Field(description="Each request.")
    goes_on: dict[str, str] = Field(
        description="By version in `trained` whose own rows are others: the version it goes on from."
    )
    unreadable: list[str] = Field(description="Why lineages cannot be read; their versions may be missing above.")


class PrunedDocument(Document):
    """`lorapar capture prune`"""

    capture: str = Field(description="Its name.")
    retention_days: int = Field(description="Days that are kept.")
    days: list[str] = Field(description="Days that were deleted.")
    files: int = Field(description="Parquet files that were deleted.")
    size_bytes: int = Field(description="Their size.")


def summary_document(capture: Capture) -> CaptureSummary:
    """Days and sizes, by the names of its files alone."""
    parts, settings = capture.parts(), capture.settings()
    days = sorted({part.day.isoformat() for part in parts})
    return CaptureSummary(
        name=capture.name,
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
        files=len(parts),
        size_bytes=sum(part.info.size_bytes for part in parts),
        retention_days=settings.retention_days if settings else None,
    )


def contents_document(capture: Capture, summary: CaptureSummary) -> CaptureContents:
    """What is in it; reads every file."""
    from lorapar.capture.records import latest_feedback

    parts = capture.parts()
    rows, remarks = capture.requests(parts), latest_feedback(capture.feedback(parts)).values()
    settings = capture.settings()
    by_day: dict[str, list[int]] = {}
    for row in rows:
        counts = by_day.setdefault(row.day, [0, 0])
        counts[0], counts[1] = counts[0] + 1, counts[1] + row.redacted
    return CaptureContents(
        summary=summary,
        settings=None if settings is None else settings.model_dump(mode="json", exclude={"address"}),
        requests=len(rows),
        adapters=dict(sorted(Counter(f"{row.adapter}@{row.version}" for row in rows).items())),
        praised=sum(one.good is True for one in remarks),
        blamed=sum(one.good is False for one in remarks),
        corrected=sum(one.answer is not None for one in remarks),
        redactions=dict(sum((Counter(row.redacted_by) for row in rows), Counter())),
        deleted=len(capture.deleted()),
        days=[CaptureDay(day=day, requests=one[0], redactions=one[1]) for day, one in sorted(by_day.items())],
    )


def contents_lines(found: CaptureContents) -> Iterator[str]:
    """The same for people."""
    yield f"{found.summary.name}: {found.requests:,} requests, kept {found.summary.retention_days or '?'} days"
    yield f"answered by {', '.join(f'{name} ({count:,})' for name, count in found.adapters.items()) or 'none'}"
    yield f"persons praised {found.praised:,} answers, blamed {found.blamed:,} and corrected {found.corrected:,}"
    redacted = ", ".join(f"{name} {count:,}" for name, count in sorted(found.redactions.items()))
    yield f"redacted: {redacted or 'nothing'}; requests deleted by their id: {found.deleted:,}"
    for day in found.days:
        yield f"{day.day}  {day.requests:,} requests, {day.redactions:,} redactions"


def request_document(capture: Capture, request_id: str) -> CapturedDocument:
    """All that is kept of one request; raises BadInputError where nothing is."""
    parts = capture.parts()
    rows = [row.model_dump(mode="json") for row in capture.requests(parts) if row.request_id == request_id]
    remarks = [one.model_dump(mode="json") for one in capture.feedback(parts) if one.request_id == request_id]
    if not rows and not remarks:
        raise BadInputError(
            f"{request_id}: nothing is kept of it in {capture.where}; it may not have been in the share, or is deleted"
        )
    return CapturedDocument(request_id=request_id, requests=rows, feedback=remarks)
