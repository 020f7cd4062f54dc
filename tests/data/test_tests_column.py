"""The column of tests: texts, lists, lists in CSV; what is no test is refused with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorapar.config import DataConfig, RunConfig
from lorapar.data import load_data, load_examples
from lorapar.errors import BadInputError
from lorapar.local.needs import require_sandbox
from lorapar.stages.graph import GRAPH

ASSERTS = ["assert add(2, 3) == 5", "assert add(0, 0) == 0"]


def source(tmp_path: Path, tests: Any, **columns: Any) -> DataConfig:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"Write add, {n}.", "answer": "def add(a, b): return a + b", "tests": tests} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(source=str(file), columns=columns or None)


COUNTED = """passed = 0
for a, b in ((2, 3), (1, 4)):
    try:
        assert add(a, b) == 5
        passed += 1
    except Exception as error:
        print(error)
"""
CHECK = "def check(candidate):\n    assert candidate(2, 3) == 5"


@pytest.mark.parametrize("tests", ["\n".join(ASSERTS), ASSERTS, json.dumps(ASSERTS), str(np.array(ASSERTS))])
def test_a_text_a_list_and_a_list_written_as_text_are_one(tmp_path: Path, tests: Any) -> None:
    assert {one.tests for one in load_examples(source(tmp_path, tests), 0)} == {"\n".join(ASSERTS)}


def test_rows_without_tests_have_none(tmp_path: Path) -> None:
    assert {one.tests for one in load_examples(source(tmp_path, None), 0)} == {None}
    assert {one.tests for one in load_examples(source(tmp_path, ASSERTS, question="question"), 0)} == {None}


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("assert add(", "is not Python"),
        ("add(2, 3)", "asserts nothing"),
        ('assert (add(2, 3) == 5, "wrong")', "asserts nothing"),
        ("assert True", "asserts nothing"),
        ("add(2, 3)\nassert [add]", "asserts nothing"),
        ("assert add(2, 3) == add(2, 3)", "asserts nothing"),
        ("assert add(2, 3) == 5 or True", "asserts nothing"),
        ("import sys\nprint(add(2, 3))\nsys.exit(0)", "asserts nothing"),
        ("def tell():\n    print('no')\ntry:\n    assert add(2, 3) == 5\nexcept Exception:\n    tell()", "no failure"),
        ("try:\n    assert add(2, 3) == 5\nexcept Exception as error:\n    print(error)", "where no failure shows"),
        ("if 0:\n    assert add(2, 3) == 5", "where no failure shows"),
        ("async def test():\n    assert add(2, 3) == 5\n\ntest()", r"runs nothing of it.*asyncio.run\(test\(\)\)"),
        ("def test():\n    yield\n    assert add(2, 3) == 5\n\ntest()", "runs nothing of it"),
        ("def check(a, a):\n    assert add(1, a) == 2\n\ncheck(1, 2)", "is not Python"),
        ("global add\nassert add(2, 3) == 5\ndef f():\n    add = 1\n    global add", "is not Python"),
        ('{"inputs": [1], "outputs": [2]}', "asserts nothing"),
        (CHECK, "asserts in check only and never calls it"),
        (f"METADATA = {{'author': 'jt'}}\n\n\n{CHECK}", "asserts in check only and never calls it"),
        (f'"""Tests of add."""\n{CHECK}\nprint("checked")', "asserts in check only and never calls it"),
        ("def test_add():\n    assert add(2, 3) == 5\n\nCASES = 2", "asserts in test_add only and never calls it"),
        ("class TestAdd:\n    def test(self):\n        assert add(2, 3) == 5\n\nTestAdd()", "asserts in test only"),
        ("def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5", "uses no name that the answer would define"),
        ("assert sum([2, 3]) == 5", "uses no name that the answer would define"),
    ],
)
def test_what_tests_nothing_is_refused_with_its_row(tmp_path: Path, tests: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as raised:
        load_examples(source(tmp_path, tests), 0)
    assert "rows.jsonl:1" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "tests",
    [
        f"{CHECK}\n\ncheck(add)",
        "def check(add):\n    assert add(2, 3) == 5\n\ncheck(add)",
        f"def test_add():\n    check(add)\n\n{CHECK}\n\nfor test in [test_add]:\n    test()",
        "class TestAdd:\n    def test(self):\n        assert add(2, 3) == 5\n\nTestAdd().test()",
        "def test_add():\n    assert add(2, 3) == 5\n\nfor name in ('test_add',):\n    globals()[name]()",
        "if add(2, 3) != 5:\n    raise SystemExit",
        "import unittest\n\nunittest.TestCase().assertEqual(add(2, 3), 5)",
        "from numpy.testing import assert_allclose\n\nassert_allclose(add(2, 3), 5)",
        "import asyncio\nasync def test():\n    assert add(2, 3) == 5\n\nasyncio.run(test())",
        "async def test():\n    assert add(2, 3) == 5\n\nfor step in test().__await__():\n    pass",
        "def tests():\n    yield add(2, 3)\n    assert add(2, 3) == 5\n\nlist(tests())",
        "try:\n    assert add(2, 3) == 5\nexcept AssertionError:\n    raise SystemExit('wrong')",
        f"import sys\n{COUNTED}if passed != 2:\n    sys.exit(1)",
        f"{COUNTED}if passed != 2:\n    quit('wrong')",
        "try:\n    assert add(2, 3) == 5\nexcept Exception:\n    quit(1)",
        "import sys\ndef wrong():\n    stop()\ndef stop():\n    sys.exit(1)\ntry:\n    assert add(2, 3) == 5\n"
        "except AssertionError:\n    wrong()",
        "steps = add(2, 3)\nassert next(steps) == next(steps)",
        "assert add(2, 3).pop() == add(2, 3).pop()",
        "assert Sum(2, 3) == Sum(2, 3)",
        "assert add(2, 3) is add(2, 3)",
        "try:\n    add()\n    assert False\nexcept TypeError:\n    pass",
        "try:\n    add()\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError",
    ],
)
def test_asserts_that_running_the_tests_comes_to_are_tests(tmp_path: Path, tests: str) -> None:
    assert {one.tests for one in load_examples(source(tmp_path, tests), 0)} == {tests}


@pytest.mark.parametrize("setup", [{"test_imports": ["import math"]}, {"test_setup_code": "import math"}])
def test_what_tests_of_mbpp_need_stands_before_them(tmp_path: Path, setup: dict[str, object]) -> None:
    row = {"prompt": "One?", "code": "def f(): return 1", "test_list": ["assert math.isclose(f(), 1)"], **setup}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    loaded = load_data(DataConfig(source=str(file), heldout=0), 0)
    assert [one.tests for one in loaded.examples] == ["import math\nassert math.isclose(f(), 1)"]
    assert not [note for note in loaded.notes if "not read" in note]


@pytest.mark.parametrize(
    ("column", "cell"),
    [("test_setup", "pip install numpy"), ("test_setup_code", {"a": 1}), ("test_setup", "def g(a, a): pass")],
)
def test_what_is_no_code_before_tests_is_counted_and_not_read(tmp_path: Path, column: str, cell: object) -> None:
    row = {"prompt": "One?", "code": "def f(): return 1", "test_list": ["assert f() == 1"], column: cell}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    loaded = load_data(DataConfig(source=str(file), heldout=0), 0)
    assert [one.tests for one in loaded.examples] == ["assert f() == 1"]
    assert f"1 of 1 rows have something in '{column}' that is not Python, which is not read" in loaded.notes


@pytest.mark.parametrize(
    ("setup", "tests", "message"),
    [
        ("import sys\nassert sys", "print(f())", "asserts nothing"),
        ("import math", "assert math.isclose(1, 1)", "uses no name that the answer would define"),
        ("def check(got):\n    assert got == 1", "print(f())", "asserts in check only"),
        ("import sys\nassert sys\ndef check(got):\n    assert got == 1", "check(f())", None),
    ],
)
def test_asserts_before_tests_are_no_tests(tmp_path: Path, setup: str, tests: str, message: str | None) -> None:
    row = {"prompt": "One?", "code": "def f(): return 1", "test_list": [tests], "test_setup_code": setup}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    config = DataConfig(source=str(file), heldout=0)
    if message is None:
        assert [one.tests for one in load_data(config, 0).examples] == [f"{setup}\n{tests}"]
        return
    with pytest.raises(BadInputError, match=f"rows.jsonl:1: 'test_list' {message}"):
        load_data(config, 0)


def test_passes_tests_without_any_tests_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    rl = {"rewards": {"passes_tests": 1.0}}
    with pytest.raises(BadInputError, match=r"passes_tests judges nothing, because no row has tests"):
        require_sandbox(GRAPH, RunConfig(data=source(tmp_path, None), rl=rl))
    require_sandbox(GRAPH, RunConfig(data=source(tmp_path, ASSERTS), rl=rl))
