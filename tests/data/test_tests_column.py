"""The column of tests: texts, lists, lists in CSV; what is no test is refused with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorapar.config import DataConfig, RunConfig
from lorapar.data import load_examples
from lorapar.errors import BadInputError
from lorapar.local.needs import require_sandbox
from lorapar.stages.graph import GRAPH

ASSERTS = ["assert add(2, 3) == 5", "assert add(0, 0) == 0"]


def source(tmp_path: Path, tests: Any, **columns: Any) -> DataConfig:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"Write add, {n}.", "answer": "def add(a, b): return a + b", "tests": tests} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(source=str(file), columns=columns or None)


@pytest.mark.parametrize("tests", ["\n".join(ASSERTS), ASSERTS, json.dumps(ASSERTS), str(np.array(ASSERTS))])
def test_a_text_a_list_and_a_list_written_as_text_are_one(tmp_path: Path, tests: Any) -> None:
    assert {one.tests for one in load_examples(source(tmp_path, tests), 0)} == {"\n".join(ASSERTS)}


def test_rows_without_tests_have_none(tmp_path: Path) -> None:
    assert {one.tests for one in load_examples(source(tmp_path, None), 0)} == {None}
    assert {one.tests for one in load_examples(source(tmp_path, ASSERTS, question="question"), 0)} == {None}


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("assert add(", "is no Python"),
        ("add(2, 3)", "asserts nothing"),
        ('{"inputs": [1], "outputs": [2]}', "asserts nothing"),
        ("def check(candidate):\n    assert candidate(2) == 4", "only defines functions and calls none"),
    ],
)
def test_what_tests_nothing_is_refused_with_its_row(tmp_path: Path, tests: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as raised:
        load_examples(source(tmp_path, tests), 0)
    assert "rows.jsonl:1" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_passes_tests_without_any_tests_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    rl = {"rewards": {"passes_tests": 1.0}}
    with pytest.raises(BadInputError, match=r"passes_tests has no say, because no row has tests"):
        require_sandbox(GRAPH, RunConfig(data=source(tmp_path, None), rl=rl))
    require_sandbox(GRAPH, RunConfig(data=source(tmp_path, ASSERTS), rl=rl))
