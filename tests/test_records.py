"""Rows survive writing and reading; a broken line is named by file and number."""

import json

import pytest

from lorapar.errors import BadInputError
from lorapar.progress import Silent, log_omissions
from lorapar.records import (
    Example,
    Omission,
    digest_of,
    omissions_of,
    read_json,
    read_records,
    recover_lines,
    write_json,
    write_records,
)


def test_rows_read_back_as_they_were_written(tmp_path):
    rows = [Example(id="a", question="Wo?", answer="Hier — «da»\nund dort"), Example(id="b", question="q", answer="5")]
    file = tmp_path / "rows.jsonl"
    assert write_records(file, rows) == 2
    assert list(read_records(file, Example)) == rows
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


def test_a_broken_row_is_named_by_file_and_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "a", "question": "q", "answer": "x"}\n{"id": "b"\n', encoding="utf-8")
    with pytest.raises(BadInputError, match=r"rows\.jsonl:2"):
        list(read_records(file, Example))


def test_equal_values_have_equal_digests_whatever_the_order():
    assert digest_of({"a": 1, "b": [1.5, None]}) == digest_of({"b": [1.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_json_that_no_reader_takes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_broken_json_is_named_by_file_and_line(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{\n"a": }', encoding="utf-8")
    with pytest.raises(BadInputError, match=r"x\.json:2"):
        read_json(file)


def test_bytes_that_are_no_text_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(b'{"a":\n"\xff"}')
    with pytest.raises(BadInputError, match=r"value\.json:2: not JSON: its bytes are no UTF-8"):
        read_json(path)
    with pytest.raises(BadInputError, match=r"value\.json:1: not a Example row"):
        list(read_records(path, Example))


@pytest.mark.parametrize("torn", [b'{"number": 3', b'{"number": 3}', b'{"numbr": 3}\n{"number": 4}\n', b"\xff\n", b""])
def test_what_a_killed_process_appended_is_read_up_to_the_torn_line_and_goes_on_there(tmp_path, torn):
    whole = b'{"number": 1}\n{"number": 2}\n'
    path = tmp_path / "journal.jsonl"
    path.write_bytes(whole + torn)
    assert list(recover_lines(path, lambda line: json.loads(line)["number"])) == [1, 2]
    assert path.read_bytes() == whole
    assert list(recover_lines(tmp_path / "none.jsonl", json.loads)) == []


def test_what_is_left_out_is_reported_in_one_line_and_much_of_it_is_much():
    few = Omission(count=3, total=7, what="rows left out", why="they are long", remedy="raise a.limit")
    assert few.line == "3 of 7 rows left out: they are long; raise a.limit"
    assert not few.is_much
    half = few.model_copy(update={"total": 6})
    assert half.is_much
    none = few.model_copy(update={"count": 0})
    assert omissions_of(few, none) == [few.model_dump()]
    lines = []
    progress = Silent()
    progress.log = lines.append
    log_omissions(progress, [few, none, half])
    assert lines == [few.line, f"WARNING: {half.line}"]
