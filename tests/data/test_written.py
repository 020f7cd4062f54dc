"""Lists and structures written as text: what Python and NumPy print is read back, and anything else is no list."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.data.written import read_written


def kept(longest):
    """Texts without the backspace and the form feed of JSON, which show that a list is written by hand."""
    return st.text(max_size=longest).map(lambda text: text.translate({8: None, 12: None}))


VALUES = st.recursive(
    kept(5) | st.integers(-99, 99) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(kept(3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=4) | st.dictionaries(kept(3), VALUES, max_size=4))
def test_what_json_and_python_write_is_read_back(value) -> None:
    assert read_written(json.dumps(value)) == value
    assert read_written(str(value)) == value


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), min_size=1, max_size=30))
def test_what_numpy_prints_is_read_back(texts) -> None:
    array = np.array(texts, dtype=object)
    for printed in (str(array), repr(array), str([np.str_(one) for one in texts])):
        assert read_written(printed) == texts
    lists = np.empty(2, dtype=object)
    lists[:] = [texts, [*texts, "b"]]
    assert read_written(str({"text": array, "more": lists})) == {"text": texts, "more": [texts, [*texts, "b"]]}


def test_numbers_of_numpy_are_numbers() -> None:
    array = np.array([[0, 1], [2, -3]])
    assert read_written(str(array)) == read_written(repr(array)) == [[0, 1], [2, -3]]
    assert read_written(repr(np.array([0.5, 2.0, np.float64(1e-9)]))) == [0.5, 2.0, 1e-9]
    assert read_written(str([np.int64(4), np.bool_(True)])) == [4, True]


@pytest.mark.parametrize(
    "text",
    ["", "[", "[1", "[1,", "{", "{1: 2}", "{1, 2}", "['a': 1]", "[1, 2)", "[a]", "[1] [2]", "('a', 'b')", "array(",
     "[,]", "['a',, 'b']", "['a''b']", "[1-2]", "[f('a')]", "array([1], dtype)", "[" * 9999,
     "[" * 30 + "None" + "]" * 30, "[None, " + "1" * 5000 + "]", "null", "{'a'}", "{'a': }"],
)  # fmt: skip
def test_what_is_no_list_is_none(text) -> None:
    assert read_written(text) is None
