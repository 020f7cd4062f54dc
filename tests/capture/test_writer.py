"""The thread that writes: bounded, late, never in the way, and true to retention and deletions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from lorapar.capture import Capture, CaptureWriter
from lorapar.capture.records import CapturedRequest, from_parquet
from lorapar.config.capture import CaptureConfig
from lorapar.errors import UnreachableError

from .conftest import NOW, asked


def writer(
    capture: Capture, counts: Counter[str], make: Callable[[str], CapturedRequest | None] = asked, **settings: object
) -> CaptureWriter[str]:
    config = CaptureConfig(name="support", **settings)  # type: ignore[arg-type]
    return CaptureWriter(capture, config, make, lambda outcome, number: counts.update({outcome: number}), lambda: NOW)


def test_what_is_offered_is_in_the_store_once_the_server_has_ended(capture):
    counts = Counter()
    made = writer(capture, counts)
    made.start()
    assert made.offer("one-00000001", 10)
    assert made.offer("two-00000002", 10)
    made.close()
    assert [row.request_id for row in capture.requests(capture.parts())] == ["one-00000001", "two-00000002"]
    assert counts == {"kept": 2}
    assert capture.settings() is not None


def test_it_is_written_after_a_while_without_an_end(capture):
    written = threading.Event()
    made = CaptureWriter(
        capture,
        CaptureConfig(name="support", flush_seconds=0.05),
        asked,
        lambda outcome, number: written.set() if outcome == "kept" else None,
    )
    made.start()
    made.offer("one-00000001", 10)
    assert written.wait(60)
    made.close()


def test_what_finds_no_room_is_dropped_and_counted(capture, monkeypatch):
    monkeypatch.setattr("lorapar.capture.writer.MOST_WAITING", 2)
    counts = Counter()
    made = writer(capture, counts)  # not started, so that nothing is taken out
    assert [made.offer(f"one-0000000{number}", 10) for number in range(3)] == [True, True, False]
    monkeypatch.setattr("lorapar.capture.writer.MOST_WAITING", 100)
    assert not made.offer("big-00000001", 1 << 40)
    assert counts == {"queue_full": 2}


def test_store_that_does_not_answer_stops_nothing_and_gets_the_rows_later(capture, monkeypatch):
    counts, tried, answers = Counter(), threading.Event(), threading.Event()
    write = capture.store.write

    def refusing(key: str, data: bytes) -> None:
        tried.set()
        if not answers.is_set():
            raise UnreachableError("the bucket does not answer")
        write(key, data)

    monkeypatch.setattr(capture.store, "write", refusing)
    made = writer(capture, counts, flush_seconds=0.02)
    made.start()
    made.offer("one-00000001", 10)
    assert tried.wait(60)
    answers.set()
    made.close()
    assert counts["write_failures"] >= 1
    assert counts["kept"] == 1


def test_rows_that_wait_too_long_for_a_store_are_lost_and_counted(capture, monkeypatch):
    def refusing(key: str, data: bytes) -> None:
        raise UnreachableError("the bucket does not answer")

    monkeypatch.setattr(capture.store, "write", refusing)
    monkeypatch.setattr("lorapar.capture.writer.MOST_KEPT", 1)
    counts = Counter()
    made = writer(capture, counts)
    made.start()
    for number in range(3):
        made.offer(f"one-0000000{number}", 10)
    made.close()
    assert counts["lost"] == 3
    assert counts["kept"] == 0


def refusing(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store that takes nothing; the keys that were tried."""
    tried: list[str] = []

    def write(key: str, data: bytes) -> None:
        tried.append(key)
        raise UnreachableError("the bucket does not answer")

    monkeypatch.setattr(capture.store, "write", write)
    return tried


@pytest.mark.parametrize("bound", ["MOST_KEPT", "MOST_KEPT_BYTES"])
def test_what_waits_for_a_store_is_bounded_the_oldest_is_lost_and_one_line_says_so(bound, capture, monkeypatch, caplog):
    rows = {f"one-000000{number:02d}": "long " * 2_000 if number % 2 else "short" for number in range(40)}
    monkeypatch.setattr(f"lorapar.capture.writer.{bound}", 5 if bound == "MOST_KEPT" else 50_000)
    refusing(capture, monkeypatch)
    counts = Counter()
    made = writer(capture, counts, lambda one: asked(one, rows[one]))
    for request_id in rows:
        made._take(request_id)
        assert len(made._rows) <= 10
        assert sum(len(row.messages[0].content) for row, _ in made._rows) <= 50_000
    assert made._rows[-1][0].request_id == list(rows)[-1]
    assert counts == {"lost": len(rows) - len(made._rows)}
    assert caplog.text.count("oldest requests are lost from now on") == 1
    monkeypatch.undo()
    made._flush()
    assert f"takes requests again; {counts['lost']} were lost" not in caplog.text  # nothing had failed before
    assert counts["kept"] == len(rows) - counts["lost"]


def test_store_that_refuses_is_tried_once_a_time_and_not_for_each_request(capture, monkeypatch, caplog):
    monkeypatch.setattr("lorapar.capture.writer.FULL_PART", 2)
    tried, counts = refusing(capture, monkeypatch), Counter()
    made = writer(capture, counts)
    made.start()
    for number in range(50):
        made.offer(f"one-000000{number:02d}", 10)
    made.close()
    assert len(tried) <= 3  # at the start, when two were there, and at the end
    assert counts["lost"] == 50
    assert "50 requests are lost, since the server ends" in caplog.text


def test_store_that_answers_again_is_reported_with_what_was_lost(capture, monkeypatch, caplog):
    monkeypatch.setattr("lorapar.capture.writer.MOST_KEPT", 2)
    refusing(capture, monkeypatch)
    counts = Counter()
    made = writer(capture, counts)
    made._take("one-00000001")
    made._flush()
    for number in (2, 3, 4):
        made._take(f"one-0000000{number}")
    monkeypatch.undo()
    made._flush()
    assert "takes requests again; 2 were lost" in caplog.text
    assert [row.request_id for row in capture.requests(capture.parts())] == ["one-00000003", "one-00000004"]


def test_many_rows_are_written_in_parts_of_bounded_size(capture, monkeypatch):
    monkeypatch.setattr("lorapar.capture.writer.FULL_PART", 4)
    monkeypatch.setattr("lorapar.capture.writer.FULL_PART_BYTES", 30_000)
    made = writer(capture, Counter(), lambda one: asked(one, "x" * 20_000 if one.startswith("big") else "short"))
    names = [f"one-0000000{number}" for number in range(6)] + ["big-00000001", "big-00000002"]
    for request_id in names:
        made._take(request_id)
    made._flush()
    parts = capture.parts()
    assert sorted(len(capture.requests([part])) for part in parts) == [1, 3, 4]
    assert {row.request_id for row in capture.requests(parts)} == set(names)


@pytest.mark.parametrize("fails_first", [False, True])
def test_request_that_is_deleted_while_its_part_is_on_the_way_is_taken_out(capture, monkeypatch, fails_first):
    """The deletion has looked at what is there, and the part comes after that."""
    write, counts = capture.store.write, Counter()
    deletes = iter([True])

    def slow(key: str, data: bytes) -> None:
        if "/date=" in key and next(deletes, False):
            capture.delete("one-00000001", NOW)
            if fails_first:
                monkeypatch.setattr(capture, "take_out", unanswered)
        write(key, data)

    def unanswered(key: str, digests: object) -> int:
        monkeypatch.setattr(capture, "take_out", type(capture).take_out.__get__(capture))
        raise UnreachableError("the bucket does not answer")

    monkeypatch.setattr(capture.store, "write", slow)
    made = writer(capture, counts)
    for request_id in ("one-00000001", "two-00000002"):
        made._take(request_id)
    made._flush()
    made._flush()
    (part,) = capture.parts()
    stored = from_parquet(capture.store.read(part.info.key), CapturedRequest, "")
    assert [row.request_id for row in stored] == ["two-00000002"]
    assert [row.request_id for row in capture.requests([part])] == ["two-00000002"]
    assert counts["write_failures"] == fails_first


def test_two_servers_write_at_once_and_nothing_is_lost_or_doubled(capture):
    both = [writer(capture, Counter()), writer(capture, Counter())]
    for made in both:
        made.start()
    for number in range(40):
        both[number % 2].offer(f"one-000000{number:02d}", 10)
    for made in both:
        made.close()
    found = [row.request_id for row in capture.requests(capture.parts())]
    assert sorted(found) == [f"one-000000{number:02d}" for number in range(40)]


def test_one_request_that_cannot_be_made_into_a_row_does_not_end_the_others(capture, caplog):
    def make(request_id: str) -> CapturedRequest:
        if request_id == "bad-00000001":
            raise ValueError("the question was: my secret")
        return asked(request_id)

    counts = Counter()
    made = writer(capture, counts, make)
    made.start()
    made.offer("bad-00000001", 10)
    made.offer("one-00000001", 10)
    made.close()
    assert counts == {"failed": 1, "kept": 1}
    assert "my secret" not in caplog.text


def test_request_that_was_deleted_while_it_waited_is_not_written(capture):
    capture.delete("one-00000001", NOW)
    counts = Counter()
    made = writer(capture, counts)
    made.start()
    made.offer("one-00000001", 10)
    made.close()
    assert capture.parts() == []
    assert counts == {}


def test_server_keeps_retention_by_itself(capture):
    capture.write([asked("old-00000001", day=1), asked("new-00000001")], NOW)
    made = writer(capture, Counter(), retention_days=5)
    made.start()
    made.close()
    assert [part.day.day for part in capture.parts()] == [20]


@pytest.mark.parametrize("outcome", ["prune_failures"])
def test_retention_that_the_store_refuses_is_counted(capture, monkeypatch, outcome):
    def refuse(keys: object) -> None:
        raise UnreachableError("may not delete")

    capture.write([asked("old-00000001", day=1)], NOW)
    monkeypatch.setattr(capture.store, "delete_all", refuse)
    counts = Counter()
    made = writer(capture, counts, retention_days=5)
    made.start()
    made.close()
    assert counts[outcome] == 1


def test_text_that_no_file_takes_costs_its_row_and_no_other(capture, caplog):
    counts = Counter()
    questions = {"bad-00000001": "half a pair: \ud800", "one-00000001": "whole"}
    made = writer(capture, counts, lambda one: asked(one).model_copy(update={"answer": questions[one]}))
    made.start()
    for request_id in questions:
        made.offer(request_id, 10)
    made.close()
    assert [row.answer for row in capture.requests(capture.parts())] == ["whole"]
    assert counts == {"failed": 1, "kept": 1}
    assert "half a pair" not in caplog.text


@pytest.mark.parametrize("broken", ["write", "list"])
def test_thread_outlives_an_error_that_nobody_thought_of(capture, monkeypatch, broken):
    counts, failed = Counter(), threading.Event()
    works = getattr(capture.store, broken)

    def fail_once(*arguments: object) -> object:
        if failed.is_set():
            return works(*arguments)
        failed.set()
        raise RuntimeError("a bug of a library")

    monkeypatch.setattr(capture.store, broken, fail_once)
    made = writer(capture, counts, flush_seconds=0.02)
    made.start()
    made.offer("one-00000001", 10)
    assert failed.wait(60)
    made.close()
    assert counts["kept"] == 1
    assert counts["write_failures"] + counts["prune_failures"] == 1
