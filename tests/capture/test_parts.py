"""Daily Parquet files of a capture: written, read, a request deleted, old days pruned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from lorapar.capture import Capture, captures, known_capture, request_digest
from lorapar.capture.records import CapturedRequest, Feedback, from_parquet
from lorapar.config.capture import CaptureConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.store import ObjectInfo, open_store
from tests.store.s3_in_memory import S3InMemory

from .conftest import NOW, asked


def in_memory(server: S3InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `s3://` be that server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYOFTHETESTS001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(params=["folder", "bucket"])
def capture(request, tmp_path, monkeypatch):
    """The same in a folder and in a bucket."""
    if request.param == "folder":
        yield Capture(open_store(tmp_path / "store"), "support")
        return
    with S3InMemory() as server:
        in_memory(server, monkeypatch)
        yield Capture(open_store("s3://bucket/registry"), "support")


def test_rows_lie_by_days_and_come_back_as_they_were(capture):
    rows = [asked("one-00000001", redacted=2, redacted_by={"email": 2}), asked("two-00000002", day=19)]
    capture.write(rows, NOW)
    assert [part.info.key.split("/")[2] for part in capture.parts()] == ["date=2026-11-19", "date=2026-11-20"]
    assert sorted(capture.requests(capture.parts()), key=lambda row: row.request_id) == rows
    assert captures(capture.store) == ["support"]


def test_other_programs_read_the_parquet(tmp_path):
    Capture(open_store(tmp_path), "support").write([asked("one-00000001")], NOW)
    (file,) = (tmp_path / "capture" / "support" / "date=2026-11-20").glob("part-*.parquet")
    (row,) = pq.read_table(file, partitioning=None).to_pylist()
    assert row["messages"] == [{"role": "user", "content": "What is 2 plus 3?"}]
    assert (row["adapter"], row["version"], row["finish_reason"], row["user"]) == ("task", 1, "stop", None)


def test_deleted_request_goes_from_every_part_and_stays_out(capture):
    capture.write([asked("one-00000001"), asked("two-00000002"), asked("one-00000001", day=18)], NOW)
    capture.write([Feedback(request_id="one-00000001", captured_at=NOW, good=True)], NOW)
    gone = capture.delete("one-00000001", NOW)
    assert (gone.requests, gone.feedback, gone.parts) == (2, 1, 3)
    assert [row.request_id for row in capture.requests(capture.parts())] == ["two-00000002"]
    assert [part.info.key.split("/")[2] for part in capture.parts()] == ["date=2026-11-20"]
    assert capture.deleted() == {request_digest("one-00000001")}
    # A server that had it in memory still, or a backup that was restored:
    capture.write([asked("one-00000001")], NOW)
    assert [row.request_id for row in capture.requests(capture.parts())] == ["two-00000002"]
    capture.prune(30, NOW)
    stored = [from_parquet(capture.store.read(part.info.key), CapturedRequest, "") for part in capture.parts()]
    assert [[row.request_id for row in rows] for rows in stored] == [["two-00000002"]]


def test_deletion_leaves_what_somebody_else_has_pruned_meanwhile(capture):
    capture.write([asked("one-00000001")], NOW)
    listed = capture.parts()
    capture.store.delete(listed[0].info.key)
    assert capture.take_out(listed[0].info.key, {request_digest("one-00000001")}) == 0


def test_days_older_than_retention_go_with_their_feedback(capture):
    capture.write([asked("one-00000001", day=day) for day in (10, 11, 20)], NOW)
    capture.write([Feedback(request_id="one-00000001", captured_at=datetime(2026, 11, 1, tzinfo=UTC), good=True)], NOW)
    gone = capture.prune(10, NOW)  # the 11th to the 20th are ten days
    assert [day.isoformat() for day in gone.days] == ["2026-11-01", "2026-11-10"]
    assert [part.day.day for part in capture.parts()] == [11, 20]


def test_retention_costs_three_listings_and_reads_no_rows(tmp_path, monkeypatch):
    """What a server does once an hour, with days to keep, requests that were deleted and, once, a day to remove."""
    with S3InMemory() as server:
        in_memory(server, monkeypatch)
        capture = Capture(open_store("s3://bucket/registry"), "support")
        for day in (10, 19, 20):
            capture.write([asked(f"one-000000{number:02d}", day=day) for number in range(3)], NOW)
        capture.delete("one-00000001", NOW)
        server.requests.clear()
        assert capture.expire(30, NOW).parts == 0
        assert [request.operation for request in server.requests] == ["GET list-type"] * 3 + ["GET"]
        server.requests.clear()
        assert capture.expire(2, NOW).parts == 1
        operations = sorted(request.operation for request in server.requests)
        assert operations == ["GET", *["GET list-type"] * 3, "POST delete"], "GET: a record, as old files are in here"


def test_record_of_a_deletion_goes_once_nothing_it_names_can_exist(capture):
    """A request is captured before it is deleted: with 10 days kept its last day goes after 10, and one is waited."""
    capture.write([asked("one-00000001", day=19), asked("two-00000001", day=20)], NOW)
    real = datetime.now(UTC)  # files have the real clock's times
    capture.delete("one-00000001", real)
    record = f"capture/support/deleted/{request_digest('one-00000001')}.json"
    for later, kept in ((0, True), (9, True), (10, True), (11, False)):
        capture.expire(10, real + timedelta(days=later))
        assert capture.store.exists(record) is kept, later
    assert capture.parts() == []


def test_what_is_no_record_of_a_deletion_is_left_alone(capture):
    capture.store.write("capture/support/deleted/notes.txt", b"mine")
    capture.expire(1, datetime.now(UTC) + timedelta(days=400))
    assert capture.store.exists("capture/support/deleted/notes.txt")


def test_days_that_are_kept_are_not_listed_to_their_end(capture, monkeypatch):
    capture.write([asked("one-00000001", day=day) for day in (1, 2, 19, 20)], NOW)
    listed, every = [], capture.store.list

    def listing(prefix: str = "") -> Iterator[ObjectInfo]:
        for info in every(prefix):
            listed.append(info.key)
            yield info

    monkeypatch.setattr(capture.store, "list", listing)
    assert capture.expire(10, NOW).parts == 2
    assert len(listed) == 3  # the first one that stays ends it


def test_files_of_other_names_are_left_alone(capture):
    capture.store.write("capture/support/date=2020-01-01/notes.txt", b"mine")
    capture.store.write("capture/support/date=2020-13-41/part-20200101T000000.000000Z-0123abcd.parquet", b"no day")
    assert capture.parts() == []
    capture.prune(1, NOW)
    assert capture.store.exists("capture/support/date=2020-01-01/notes.txt")


def test_damaged_part_is_named(capture):
    capture.write([asked("one-00000001")], NOW)
    (part,) = capture.parts()
    capture.store.write(part.info.key, b"no parquet")
    with pytest.raises(IntegrityError, match=r"part-.*parquet: not a file of captured requests"):
        capture.requests(capture.parts())


def test_settings_are_written_beside_without_an_address(capture):
    assert capture.settings() is None
    capture.describe(CaptureConfig(name="support", retention_days=7, address="s3://elsewhere/x"))
    assert b"elsewhere" not in capture.store.read("capture/support/capture.json")
    assert capture.settings() == CaptureConfig(name="support", retention_days=7)


def test_name_that_is_not_there_is_refused_with_the_nearest(capture):
    capture.write([asked("one-00000001")], NOW)
    with pytest.raises(BadInputError, match=r"suport: no such capture in .* \(did you mean 'support'\?\)"):
        known_capture(capture.store, "suport")
