"""Rows of files, and one line with file and line number for every file that is not what its ending says."""

import bz2
import gzip
import json
import lzma
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorapar.config import DataConfig
from lorapar.data import load_examples
from lorapar.data.readers import read_rows
from lorapar.errors import BadInputError

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": 'says "é", twice\u2028', "answer": "b\nc"}]


def write(path, rows):
    """The same rows in the format of the file's ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        quoted = [[value.replace('"', '""') for value in row.values()] for row in rows]
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row) for row in quoted)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.jsonl", ["a.jsonl:1", "a.jsonl:2"]),
        ("a.json", ["a.json, row 1", "a.json, row 2"]),
        ("a.csv", ["a.csv:2", "a.csv:3"]),
        ("a.parquet", ["a.parquet, row 1", "a.parquet, row 2"]),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, places):
    found = list(read_rows(write(tmp_path / name, ROWS)))
    assert [row for _, row in found] == ROWS
    assert [where for where, _ in found] == [f"{tmp_path}/{place}" for place in places]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst", ".GZ"])
def test_packed_files_give_the_same_rows(tmp_path, name, packing):
    path = write(tmp_path / name, ROWS)
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(packing.lower(), zstd)
    packed = tmp_path / (name + packing)
    packed.write_bytes(pack(path.read_bytes()))
    assert [row for _, row in read_rows(packed)] == [row for _, row in read_rows(path)] == ROWS
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(BadInputError, match=rf"{packed.name}: cannot be unpacked: .*; copy the file again"):
        list(read_rows(packed))


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonlines", "a.ldjson", "a.NDJSON", "a.ndjson.gz"])
def test_json_lines_have_several_endings(tmp_path, name):
    data = write(tmp_path / "a.jsonl", ROWS).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_rows_is_read_in_a_file_of_json_lines_too_and_reported(tmp_path, indent):
    path, message = tmp_path / "a.jsonl", []
    path.write_text(json.dumps(ROWS, indent=indent), encoding="utf-8")
    assert list(read_rows(path, message.append)) == [(f"{path}, row 1", ROWS[0]), (f"{path}, row 2", ROWS[1])]
    assert message == [f"{path} is one list of rows, not one row a line"]


def test_rows_of_several_lines_each_stand_where_they_begin(tmp_path):
    path, message = tmp_path / "a.jsonl", []
    path.write_text("\n\n".join(json.dumps(row, indent=2) for row in ROWS), encoding="utf-8")
    assert list(read_rows(path, message.append)) == [(f"{path}:1", ROWS[0]), (f"{path}:6", ROWS[1])]
    assert message == [f"{path} has rows of several lines each"]


@pytest.mark.parametrize(("delimiter", "named"), [(";", "semicolons"), (",", "commas"), ("\t", "tabs")])
def test_the_line_in_which_excel_names_the_separator_is_no_header(tmp_path, delimiter, named):
    path, message = tmp_path / "a.csv", []
    path.write_text(f"sep={delimiter}\r\nquestion{delimiter}answer\r\n1+1?{delimiter}2\r\n", encoding="utf-8-sig")
    assert list(read_rows(path, message.append)) == [(f"{path}:3", {"question": "1+1?", "answer": "2"})]
    assert message == [f"{path} names {named} as its separator in the first line"]


def test_blank_lines_are_nothing_and_numbers_still_right(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\r\n\r\n{"a": 2}\n\n')
    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]


def test_a_name_twice_with_one_value_is_that_value_and_so_is_no_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "b": NaN, "b": NaN, "a": 1}\n')
    ((_, row),) = read_rows(path)
    assert list(row) == ["a", "b"]
    assert math.isnan(row["b"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'[{"a": 1}, {"a": 2}]\n{"a": 3}', r"a\.jsonl:1: expected an object with columns, .* got list"),
        ("a.jsonl", b'[\n{"a": 1},\n{"a"}\n]', r"a\.jsonl:3: not JSON.*; the file must be one list of JSON objects"),
        ("a.jsonl", b'{\n "a": 1\n}\n{\n "a"\n}', r"a\.jsonl:1: not JSON.*; every line must be one whole JSON object"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', r"has several lists of rows, 'train', 'test'; write"),
        ("a.xlsx", b"", r"cannot read '\.xlsx' files; save the sheet as CSV in UTF-8; known"),
        ("a.arrow", b"", r"cannot read '\.arrow' files; write Parquet, as datasets\.Dataset\.from_file"),
        (
            "a.jsonl",
            b'{"a": 1, "a": 1}\n{"a": 1, "a": 2}',
            r"a\.jsonl:2: 'a' stands twice in one object, with two values",
        ),
        ("a.json", b'[{"q": {"b": "x", "b": "y"}}]', r"a\.json:1: 'b' stands twice .* \(it begins with 'b': 'x'\)"),
        *(
            (name, content % (b"9" * 5000), rf"{name}:{line}: not a row: a number has more than 4,300 digits; write it")
            for name, line, content in (
                ("a.jsonl", 2, b'{"a": 1}\n{"a": %b}'),
                ("a.jsonl", 1, b'{"a": %b}'),
                ("a.jsonl", 2, b'\n{\n"a": %b\n}\n{\n"a": 1\n}'),
                ("a.jsonl", 1, b'[\n{"a": %b}\n]'),
                ("a.json", 1, b'{\n"train": [{"a": -%b}]\n}'),
            )
        ),
        ("a.ndjson", b"a\n", r"a\.ndjson:1: not JSON: .*; every line must be one whole JSON object"),
        ("a.txt", b"", r"cannot read '\.txt' files; a text does not say where a question ends"),
        ("a.pkl", b"", r"cannot read '\.pkl' files; such files may run code when they are read: write Parquet"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: cannot read '\.gz' files; unpack it first; known"),
        ("a.zip", b"", r"a\.zip: cannot read '\.zip' files; unpack it first; known"),
        ("a.jsonl.gz", b'{"a": 1}', r"a\.jsonl\.gz: cannot be unpacked: Not a gzipped file .*; copy the file again"),
        ("a.csv.zst", b"a,b\n", r"a\.csv\.zst: cannot be unpacked: ZSTD .*; copy the file again"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": \n',
            r"a\.jsonl:2: not JSON: Expecting value \(column 7\); every line must be one whole JSON object; fix",
        ),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl:2: expected an object with columns, .* got list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"a\.jsonl:2: not UTF-8 \(byte 0xe9\); save it as UTF-8"),
        (
            "a.json",
            b'[\n{"a": 1},\n{"a"}\n]',
            r"a\.json:3: not JSON.*; the file must be one list of JSON objects, or one object a line; fix",
        ),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json, row 2: expected an object"),
        ("a.csv", b"a,b\n1,2\n\xff,4\n", r"a\.csv:3: not UTF-8"),
        (
            "a.csv",
            b"a,b\n1,2\n1,2,3\n",
            r"a\.csv:3: 3 fields where the header names 2; put values with commas .* in double quotes",
        ),
        ("a.csv", b'a,b\n"1\n1",2\n\n3\n', r"a\.csv:5: 1 fields where the header names 2"),
        ("a.csv", b'a,b\n1,"2\n', r"a\.csv:2: not CSV"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: not a Parquet file"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not a row: nested too deeply"),
    ],
)
def test_broken_files_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("delimiter", "named"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_delimiter_is_found_in_a_header_without_commas_and_reported(tmp_path, delimiter, named):
    path, message = tmp_path / "a.csv", []
    path.write_text(f'question{delimiter}answer\n1,5 + 1?{delimiter}"2{delimiter}5"\n', encoding="utf-8")
    ((_, row),) = read_rows(path, message.append)
    assert row == {"question": "1,5 + 1?", "answer": f"2{delimiter}5"}
    assert message == [f"{path} is read with {named} between its values, as its header has them and no comma"]
    path.write_text(f"question{delimiter}answer\nq\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=rf"a\.csv:2: 1 fields where the header names 2; put values with {named}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("question,answer,note,note\n1+1?,2,a,b\n", ["2"]),
        ("question,answer,answer\n1+1?,2,2\n", ["2"]),
        ("question,answer,answer\n1+1?,2,2\n1+2?,3,4\n", None),
    ],
)
def test_two_columns_of_one_name_are_refused_where_one_is_read_and_they_differ(tmp_path, text, answers):
    (tmp_path / "a.csv").write_text(text)
    message = []
    list(read_rows(tmp_path / "a.csv", message.append))
    name = text.partition("\n")[0].rpartition(",")[2]
    assert message == [f"{tmp_path}/a.csv:1: two columns are called '{name}'; rename one if it is to be read"]
    config = DataConfig(source=str(tmp_path / "a.csv"), heldout=0)
    if answers is not None:
        assert [one.answer for one in load_examples(config, 0)] == answers
        return
    with pytest.raises(BadInputError, match=r"a\.csv:3: two columns are called 'answer', and they differ here; rename"):
        load_examples(config, 0)


@pytest.mark.parametrize("header", ["question,answer;more", "a;b|c", "question"])
def test_where_a_delimiter_is_not_sure_it_is_the_comma(tmp_path, header):
    path, message = tmp_path / "a.csv", []
    path.write_text(f"{header}\n{header}\n", encoding="utf-8")
    ((_, row),) = read_rows(path, message.append)
    assert list(row) == header.split(",")
    assert message == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_encodings_that_the_first_bytes_show_are_read_and_reported(tmp_path, encoding, name):
    path, message = tmp_path / name, []
    lines = {"a.jsonl": '{"q": "Où?", "a": "là"}\n', "a.csv": "q,a\nOù?,là\n", "a.tsv": "q\ta\nOù?\tlà\n"}
    path.write_bytes(lines[name].encode(encoding))
    assert [row for _, row in read_rows(path, message.append)] == [{"q": "Où?", "a": "là"}]
    utf8 = encoding.startswith("utf-8")
    assert [line.split(",")[0] for line in message] == ([] if utf8 else [f"{path} is read as {encoding.upper()}"])


def test_an_encoding_that_could_be_several_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("q,a\nOù?,là\n".encode("cp1252"))
    with pytest.raises(BadInputError, match=r"a\.csv:2: not UTF-8 \(byte 0xf9\); save it as UTF-8"):
        list(read_rows(path))


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(BadInputError, match=r"there is no file .*trian\.jsonl \(did you mean 'train\.jsonl'\?\)"):
        read_rows(tmp_path / "trian.jsonl")
    with pytest.raises(BadInputError, match=r"cannot read '\.jsnl' files \(did you mean '\.jsonl'\?\); known: "):
        read_rows(tmp_path / "train.jsnl")


SUMS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ({"version": "1.1", "data": SUMS}, "is one object: its rows are those of 'data'"),
        ({"a": SUMS[0], "b": SUMS[1]}, "is one object: its rows are the values of its 2 names"),
        ({name: [row[name] for row in SUMS] for name in SUMS[0]}, "holds its columns as lists"),
        ({name: {str(n): row[name] for n, row in enumerate(SUMS)} for name in SUMS[0]}, "its columns by row numbers"),
    ],
    ids=str,
)
def test_an_object_around_the_rows_is_seen_through_and_reported(tmp_path, whole, message):
    """As SQuAD, label tools, `Dataset.to_dict` and pandas (`to_json`) write them; indented or not."""
    for indent in (None, 1):
        (tmp_path / "rows.json").write_text(json.dumps(whole, indent=indent))
        heard: list[str] = []
        assert [row for _, row in read_rows(tmp_path / "rows.json", heard.append)] == SUMS
        assert message in heard[0]


def test_a_row_by_itself_is_a_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    (tmp_path / "rows.json").write_text(json.dumps(row))
    assert [found for _, found in read_rows(tmp_path / "rows.json", pytest.fail)] == [row]
