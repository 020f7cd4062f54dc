"""A person's labels: read from any spreadsheet's CSV, mistakes named by line."""

from __future__ import annotations

import hashlib

import pytest

from lorapar.config import EditsConfig
from lorapar.errors import BadInputError
from lorapar.voting.tally import edits_csv, load_edits, parse_edits, resolve_edits, system_of

GOOD = '\ufeffedited,example_id,question\r\nsystem1,r2,"a, b"\r\n,r3,q\r\n hold_out ,r1,"two\r\nlines"\r\n'


def test_other_columns_and_empty_edits_are_left_out() -> None:
    edits = parse_edits(GOOD.encode(), "f.csv")
    assert edits == {"r2": "system1", "r1": "hold_out"}
    assert [system_of(edit) for edit in edits.values()] == ["system1", None]
    assert edits_csv(edits) == "example_id,edited\nr1,hold_out\nr2,system1\n"
    assert parse_edits(edits_csv(edits).encode(), "f.csv") == edits


@pytest.mark.parametrize("mark", [";", "\t"])
def test_edits_that_a_spreadsheet_parted_otherwise_are_read(mark) -> None:
    rows = [("example_id", "question", "edited"), ("r1", '"Which, or what?"', "system1"), ("r2", "x", "")]
    text = "\ufeff" + "".join(mark.join(row) + "\r\n" for row in rows)
    assert parse_edits(text.encode(), "f.csv") == {"r1": "system1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,edited\n1,system1\n", "f.csv: has no column 'example_id'"),
        ("example_id,label\n1,system1\n", "f.csv: has no column 'edited'"),
        ("", "f.csv: has no column 'example_id'"),
        ("example_id,edited\nr1,system1\nr2,fast\n", "f.csv:3: edited is 'fast'; write system1, system2, hold_out or"),
        ("example_id,edited\nr1,system1\nr1,system2\n", "f.csv:3: row r1 is edited twice"),
    ],
)
def test_mistakes_are_named(text, message) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_edits(text.encode(), "f.csv")
    assert str(caught.value).startswith(message)


def test_bytes_that_are_no_text_are_named() -> None:
    with pytest.raises(BadInputError, match=r"f.csv: not UTF-8 \(byte 0\)"):
        parse_edits(b"\xff\xfe\x00", "f.csv")


def test_settings_name_a_file_and_its_digest(tmp_path) -> None:
    file = tmp_path / "edits.csv"
    file.write_text("example_id,edited\nr1,system1\n", encoding="utf-8")
    resolved = resolve_edits(EditsConfig(source=str(file)))
    assert resolved.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_edits(resolved) == {"r1": "system1"}
    assert load_edits(EditsConfig()) == {}
    assert resolve_edits(EditsConfig()) == EditsConfig()
    file.write_text("example_id,edited\nr1,system2\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="has changed since the run was planned"):
        load_edits(resolved)
    with pytest.raises(BadInputError, match=r"edits.source: .*nowhere.csv cannot be read"):
        resolve_edits(EditsConfig(source=str(tmp_path / "nowhere.csv")))
