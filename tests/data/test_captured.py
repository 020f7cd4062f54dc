"""`data.source: capture:NAME`: what a server kept becomes rows, with whose answers, and what is left out and why."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lorapar.capture import Capture, request_digest
from lorapar.capture.records import Feedback, Message
from lorapar.config import ColumnMapping, DataConfig
from lorapar.config.load import load_config
from lorapar.data import data_digest, load_data, load_sample, resolve_data
from lorapar.data.teacher_answers import JOURNAL, TeacherAnswers
from lorapar.errors import BadInputError, UnreachableError
from lorapar.progress import Silent
from lorapar.store import open_store
from tests.capture.conftest import NOW, asked

QUESTIONS = (
    "How do I return shoes that do not fit?",
    "Where is the parcel that I ordered on Monday?",
    "Which sizes does the blue jacket come in?",
)


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """Three requests of three days: the first one's answer is praised, the second's corrected, the third's neither."""
    made = Capture(open_store(tmp_path / "store"), "support")
    for number, question in enumerate(QUESTIONS):
        made.write([asked(f"request-{number}", question, f"answer {number}", day=18 + number)], NOW)
    feedback = [
        Feedback(request_id="request-0", captured_at=NOW, good=True),
        Feedback(request_id="request-1", captured_at=NOW, good=False, answer="On its way."),
    ]
    made.write(feedback, NOW)
    return made


def data(capture: Capture, **wanted: Any) -> DataConfig:
    values = {"source": "capture:support", "capture": {"address": capture.store.address, **wanted}, "heldout": 0}
    return resolve_data(DataConfig.model_validate(values))


def answers(config: DataConfig, **more: Any) -> dict[str, str]:
    return {one.question: one.answer for one in load_data(config, 0, **more).examples}


def omitted(config: DataConfig, **more: Any) -> dict[str, int]:
    return {one.why: one.count for one in load_data(config, 0, **more).omissions if one.count}


def test_without_a_teacher_only_what_a_person_had_a_word_on_becomes_a_row(capture: Capture) -> None:
    found = load_data(data(capture), 0)
    assert {one.question: one.answer for one in found.examples} == {
        QUESTIONS[0]: "answer 0",
        QUESTIONS[1]: "On its way.",
    }
    assert {one.id for one in found.examples} == {request_digest("request-0"), request_digest("request-1")}
    assert omitted(data(capture)) == {"no person has praised or corrected the answer": 1}
    assert found.notes == [
        "capture:support: 3 requests of 2026-11-18 to 2026-11-20, 2 rows: 1 with an answer that a person wrote, 1 with "
        "an answer that a person praised"
    ]
    facts = found.captures["support"]
    assert (facts["since"], facts["until"], facts["read"], facts["rows"]) == ("2026-11-18", "2026-11-20", 3, 2)
    assert facts["requests"].split() == sorted(request_digest(f"request-{number}") for number in (0, 1))


@pytest.mark.parametrize("ended", ["length", "abort", None])
def test_answer_that_was_cut_off_is_not_learnt_even_where_it_was_praised(ended: str | None, capture: Capture) -> None:
    capture.write([asked("request-9", "Tell me all!", "It is", finish_reason=ended)], NOW)
    capture.write([Feedback(request_id="request-9", captured_at=NOW, good=True)], NOW)
    assert "Tell me all!" not in answers(data(capture))


def test_last_word_counts(capture: Capture) -> None:
    later = NOW + timedelta(hours=1)
    capture.write([Feedback(request_id="request-0", captured_at=later, good=False)], NOW)
    assert list(answers(data(capture))) == [QUESTIONS[1]]


def test_last_word_is_the_one_said_last_and_not_the_one_written_last(capture: Capture) -> None:
    earlier = Feedback(request_id="request-0", captured_at=NOW - timedelta(hours=1), good=False)
    capture.write([earlier], NOW + timedelta(hours=1))
    assert answers(data(capture))[QUESTIONS[0]] == "answer 0"


def test_answers_of_a_sheet_that_no_request_has_are_reported(capture: Capture, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    lines = [f"nobody-{number},x" for number in range(7)]
    sheet.write_text("\n".join(["request_id,answer", "request-2,S", *lines]), encoding="utf-8")
    other = Capture(capture.store, "other")
    other.write([asked("nobody-3", "May I ask you something else?")], NOW)
    why = (
        "answers are not used, since no request that is read has their request_id (mistyped, of other days, or deleted)"
    )
    message = [f"{sheet}: 7 {why}: nobody-0, nobody-1, nobody-2, nobody-3, nobody-4 and 2 more"]
    config = data(capture, reference="file", file=str(sheet))
    assert [note for note in load_data(config, 0).notes if "not used" in note] == message
    assert [note for note in load_sample(config, 0).notes if "not used" in note] == message
    both = {"sources": [{"source": "capture:support"}, {"source": "capture:other"}], "heldout": 0}
    wanted = {"address": capture.store.address, "reference": "file", "file": str(sheet)}
    mixed = resolve_data(DataConfig.model_validate({**both, "capture": wanted}))
    (line,) = [note for note in load_data(mixed, 0).notes if "not used" in note]
    assert line == f"{sheet}: 6 {why}: nobody-0, nobody-1, nobody-2, nobody-4, nobody-5 and 1 more"
    sheet.write_text("request_id,answer\nrequest-2,S", encoding="utf-8")
    config = data(capture, reference="file", file=str(sheet))
    assert not any("not used" in note for note in load_data(config, 0).notes)


def test_a_person_s_sheet_fills_in_the_rest(capture: Capture, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text('request_id,answer,reference\nrequest-2,"S, M and L",L\nrequest-0,,\n', encoding="utf-8")
    found = load_data(data(capture, reference="file", file=str(sheet)), 0)
    assert {one.question: (one.answer, one.reference) for one in found.examples}[QUESTIONS[2]] == ("S, M and L", "L")
    assert len(found.examples) == 3
    before = data(capture, reference="file", file=str(sheet))
    sheet.write_text("request_id,answer\nrequest-2,other\n", encoding="utf-8")
    assert data_digest(before) != before.digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id,answer\n", "has no column 'request_id'"),
        ("request_id,answer\n,x\n", "sheet.csv:2: an answer without a request_id"),
        ("request_id,answer\nrequest-1,x\nrequest-1,y\n", "sheet.csv:3: the request request-1 is answered twice"),
    ],
)
def test_wrong_sheet_is_reported_by_its_line(text: str, complaint: str, capture: Capture, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=complaint):
        load_data(data(capture, reference="file", file=str(sheet)), 0)


def praised(capture: Capture, *questions: str, **more: Any) -> None:
    """Requests of one day, the later ones later in it, all of whose answers a person has praised."""
    start = datetime(2026, 11, 20, 10, tzinfo=UTC)
    rows = [
        asked(f"praised-{number:04d}", text, f"answer {number}", captured_at=start + timedelta(minutes=number), **more)
        for number, text in enumerate(questions)
    ]
    capture.write(rows, NOW)
    capture.write([Feedback(request_id=row.request_id, captured_at=NOW, good=True) for row in rows], NOW)


def test_of_the_same_question_the_newest_praised_answer_is_kept_and_all_are_named(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    long = "I bought a pair of shoes in your shop in Hamburg last week, how do I return them, please?"
    praised(capture, long, f" {long} ", long.replace("please?", "please!"))
    found = load_data(data(capture), 0)
    assert [one.answer for one in found.examples] == ["answer 2"]
    assert omitted(data(capture)) == {"the same question": 1, "nearly the same question": 1}
    # The text of the nearly same one is not in the rows.
    assert found.captures["support"]["requests"] == request_digest("praised-0002")


def test_exact_duplicates_are_all_named_in_the_lineage(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    praised(capture, "Where is my parcel?", "Where is my parcel?")
    (facts,) = load_data(data(capture), 0).captures.values()
    assert set(facts["requests"].split()) == {request_digest("praised-0000"), request_digest("praised-0001")}


def test_one_question_does_not_dominate(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    praised(capture, *(f"Where is my parcel with the order number {number}?" for number in range(100, 130)), "Hello!")
    config = data(capture, max_per_cluster=5)
    assert len(answers(config)) == 6
    assert omitted(config) == {"5 questions like it are there": 25}
    assert len(answers(data(capture, max_per_cluster=None))) == 31


def test_rows_with_much_redacted_and_foreign_roles_are_left_out(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    praised(capture, "I am [EMAIL] [PHONE], where is it?", redacted=2)
    capture.write(
        [asked("tool-00000001", messages=(Message(role="user", content="x"), Message(role="tool", content="y")))], NOW
    )
    config = data(capture, max_redactions=2)
    assert len(answers(config)) == 1
    with pytest.raises(BadInputError, match=r"no row of capture:support is left: .*more than 1 redactions"):
        load_data(data(capture, max_redactions=1), 0)


def test_developer_s_message_is_a_system_message(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    message = (Message(role="developer", content="Be brief."), Message(role="user", content="Where is my parcel?"))
    praised(capture, "", messages=message)
    (row,) = load_data(data(capture), 0).examples
    assert (row.system_message, row.question) == ("Be brief.", "Where is my parcel?")


def test_days_are_chosen_and_what_comes_after_the_plan_changes_nothing(capture: Capture) -> None:
    config = data(capture, since="2026-11-19")
    assert (config.capture.since, config.capture.until) == (date(2026, 11, 19), date(2026, 11, 20))
    assert list(answers(config)) == [QUESTIONS[1]]
    capture.write([asked("later-00001", "And now?")], NOW + timedelta(seconds=1))
    capture.write([Feedback(request_id="later-00001", captured_at=NOW, good=True)], NOW + timedelta(seconds=2))
    assert data_digest(config) == config.digest
    assert list(answers(config)) == [QUESTIONS[1]]
    assert data(capture, since="2026-11-19").digest != config.digest
    assert resolve_data(config) == config


def test_planned_again_with_nothing_new_the_settings_are_the_same(capture: Capture) -> None:
    """What `if_changed` goes by: days are those that have requests, so that a window that moves on changes nothing."""
    today = (datetime.now(UTC).date() - date(2026, 11, 1)).days
    assert data(capture, last_days=today + 1) == data(capture, last_days=today + 2)
    before = data(capture)
    capture.write([asked("later-00001", "And now?")], NOW + timedelta(seconds=1))
    assert data(capture) != before


def test_last_days_are_counted_from_today(tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path), "support")
    today = datetime.now(UTC)
    for number, age in enumerate((0, 1, 5)):
        capture.write([asked(f"request-{number}", QUESTIONS[number], captured_at=today - timedelta(days=age))], today)
        capture.write([Feedback(request_id=f"request-{number}", captured_at=today, good=True)], today)
    config = data(capture, last_days=2)
    assert set(answers(config)) == set(QUESTIONS[:2])
    assert config.capture.last_days is None
    with pytest.raises(BadInputError, match="holds no requests of the days"):
        data(capture, until="2020-01-01")


def test_part_of_a_server_whose_clock_is_slow_comes_too_late_for_the_plan(capture: Capture) -> None:
    config = data(capture)
    for behind in (timedelta(0), timedelta(seconds=1), timedelta(minutes=50)):
        capture.write([asked(f"slow-{behind.seconds:07d}", f"And now {behind}?", day=19)], NOW - behind)
        feedback = Feedback(request_id=f"slow-{behind.seconds:07d}", captured_at=NOW, good=True)
        capture.write([feedback], NOW - behind)
    assert data_digest(config) == config.digest
    assert set(answers(config)) == set(QUESTIONS[:2])
    assert len(answers(data(capture))) == 5


def test_files_that_are_read_are_named_with_their_sha256(capture: Capture) -> None:
    config = data(capture)
    found = load_data(config, 0)
    files = {part.info.key: hashlib.sha256(capture.store.read(part.info.key)).hexdigest() for part in capture.parts()}
    assert found.captured_files == {"support": files}
    facts = found.captures["support"]
    assert (facts["files"], facts["snapshot"]) == (4, config.capture.snapshot)
    capture.write([asked("later-00001", "And now?")], NOW + timedelta(hours=2))
    assert load_data(config, 0).captures["support"] == facts
    capture.delete("request-2", NOW)
    assert load_data(config, 0).captures["support"]["files_digest"] != facts["files_digest"]


def test_snapshot_set_by_hand_reads_what_was_there_then(capture: Capture) -> None:
    capture.write([asked("later-00001", "And now?")], NOW + timedelta(seconds=1))
    capture.write([Feedback(request_id="later-00001", captured_at=NOW, good=True)], NOW + timedelta(seconds=1))
    assert set(answers(data(capture, snapshot="20261120T120000.000000Z"))) == set(QUESTIONS[:2])
    assert "And now?" in answers(data(capture, snapshot="20261120T120001.000000Z"))


def test_deleted_request_is_no_row_and_the_planned_run_says_so(capture: Capture) -> None:
    config = data(capture)
    capture.delete("request-0", NOW)
    assert data_digest(config) != config.digest
    assert list(answers(data(capture))) == [QUESTIONS[1]]


def test_plan_says_how_many_rows_wait_for_the_teacher_and_asks_nobody(capture: Capture) -> None:
    teacher = {"endpoint": "http://127.0.0.1:9/v1", "model": "big"}
    sample = load_sample(data(capture, reference="teacher", teacher=teacher), 0)
    assert sample.notes[0].endswith(
        "3 rows: 1 with an answer that a person wrote, 1 with an answer that a person praised, 1 for the teacher big "
        "to answer"
    )


class Endpoint:
    """An OpenAI-compatible API that answers by the question, refuses one, and breaks down after so many."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refused = ""
        self.works_for = 1000
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.asked.append(body)
                status, message = endpoint.answer(body)
                data = json.dumps(message).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        question = body["messages"][-1]["content"]
        if len(self.asked) > self.works_for:
            return 500, {"error": {"message": "out of memory"}}
        ended, text = ("length", "It is") if question == self.refused else ("stop", f"Taught: {question}")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
        return 200, {"choices": [choice], "usage": {"total_tokens": 9}}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def taught(capture: Capture, endpoint: Endpoint, **more: Any) -> DataConfig:
    openai = {"concurrency": 1, "attempts": 1, "max_tokens": 50}
    teacher = {"endpoint": endpoint.address, "model": "big", "openai": openai, **more}
    return data(capture, reference="teacher", teacher=teacher)


def test_teacher_answers_only_what_no_person_had_a_word_on(
    capture: Capture, endpoint: Endpoint, tmp_path: Path
) -> None:
    config = taught(capture, endpoint, instruction="Be brief.")
    found = answers(config, ask=TeacherAnswers(config.capture, tmp_path, Silent()))
    assert found == {QUESTIONS[0]: "answer 0", QUESTIONS[1]: "On its way.", QUESTIONS[2]: f"Taught: {QUESTIONS[2]}"}
    (body,) = endpoint.asked
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[2]}]


def test_rows_beyond_the_limit_are_cut_before_the_teacher_is_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    capture = Capture(open_store(tmp_path / "store"), "support")
    capture.write([asked(f"request-{number}", text) for number, text in enumerate(QUESTIONS)], NOW)
    config = taught(capture, endpoint).model_copy(update={"limit": 2})
    assert load_sample(config, 0).notes[0].endswith("2 rows: 2 for the teacher big to answer")
    found = load_data(config, 0, ask=TeacherAnswers(config.capture, tmp_path, Silent()))
    assert (len(found.examples), found.more, len(endpoint.asked)) == (2, True, 2)
    facts = found.captures["support"]
    assert (facts["rows"], len(facts["requests"].split())) == (2, 2)
    config = taught(capture, endpoint).model_copy(update={"limit": 3})
    assert not load_data(config, 0, ask=TeacherAnswers(config.capture, tmp_path, Silent())).more


def test_question_without_a_whole_answer_is_left_out(capture: Capture, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.refused = QUESTIONS[2]
    config = taught(capture, endpoint)
    ask = TeacherAnswers(config.capture, tmp_path, Silent())
    assert omitted(config, ask=ask) == {"the teacher gave no whole answer": 1}


def test_teacher_that_fails_is_asked_only_for_the_rest_next_time(tmp_path: Path, endpoint: Endpoint) -> None:
    capture = Capture(open_store(tmp_path / "store"), "support")
    capture.write([asked(f"request-{number}", text) for number, text in enumerate(QUESTIONS)], NOW)
    config = taught(capture, endpoint)
    endpoint.works_for = 2
    with pytest.raises(UnreachableError, match=r"^data\.capture\.teacher: .*/chat/completions"):
        load_data(config, 0, ask=TeacherAnswers(config.capture, tmp_path, Silent()))
    assert len((tmp_path / JOURNAL).read_text(encoding="utf-8").splitlines()) == 2
    endpoint.works_for = 1000
    before = len(endpoint.asked)
    assert len(answers(config, ask=TeacherAnswers(config.capture, tmp_path, Silent()))) == 3
    assert len(endpoint.asked) == before + 1


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"source": "capture:a b"}, "names no capture"),
        ({"source": "capture:support@production"}, "a capture has no aliases or versions.*write capture:support "),
        ({"source": "capture:suport"}, r"data\.source: capture:suport: no such capture in .*did you mean 'support'"),
        ({"source": "capture:support", "mapping": "gsm8k"}, r"data\.mapping: does nothing for a capture"),
        ({"source": "capture:support", "columns": {"question": "q"}}, r"data\.columns\.question: does nothing"),
    ],
)  # fmt: skip
def test_what_means_nothing_for_a_capture_is_refused(values: dict[str, Any], complaint: str, capture: Capture) -> None:
    with pytest.raises(BadInputError, match=complaint):
        resolve_data(DataConfig.model_validate({**values, "capture": {"address": capture.store.address}}))


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("data.capture.reference=teacher", "data.capture: teacher: is missing, and reference is teacher"),
        ("data.capture.file=x.csv", "file: does nothing where reference is feedback"),
        ("data.capture.last_days=0", "data.capture.last_days: must be at least 1"),
        ("data.capture.snapshot=yesterday", "data.capture.snapshot: must be a time as in the names of parts"),
        ("data.capture={last_days: 2, snapshot: 20261120T120000.000000Z}", "last_days does not go with .* snapshot"),
        ("data.capture.recent=[0123abcd]", "recent: does nothing without snapshot"),
        ("data.capture.since=yesterday", "data.capture.since: must be a day such as 2026-11-30"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        load_config(preset="tiny", overrides=["data.source=capture:support", setting])


def test_capture_settings_without_a_capture_are_refused() -> None:
    with pytest.raises(BadInputError, match="capture: does nothing without a source capture:NAME"):
        load_config(preset="tiny", overrides=["data.capture.last_days=3"])


def test_reference_pattern_finds_the_short_answer(capture: Capture) -> None:
    columns = ColumnMapping(reference_pattern=r"answer (\d+)")
    config = data(capture).model_copy(update={"columns": columns})
    assert {one.reference for one in load_data(config, 0).examples} == {"0", None}
