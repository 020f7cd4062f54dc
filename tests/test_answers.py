"""How answers are found in a text and compared."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.answers import as_number, extract_tagged, last_number, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<reasoning>3+4=7</reasoning><answer>7</answer>", "7"),
        ("<answer>\n 1,000 \n</answer>\n", "1,000"),
        ("<answer>1</answer> no, wait: <answer>2</answer>", "2"),
        ("<answer>1 <answer>2</answer>", "2"),
        ("<answer>cut off", None),
        ("7", None),
        ("<answer></answer>", ""),
    ],
)
def test_the_tagged_answer_is_the_last_complete_pair(text: str, answer: str | None) -> None:
    assert extract_tagged(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 apples, then 12.", "12"),
        ("3+4=7, 7-2=5", "5"),
        ("the difference is 7-2", "2"),
        ("that leaves -2 of them", "-2"),
        ("x=\u22122", "\u22122"),
        ("it costs $1,234.50 a day", "$1,234.50"),
        ("rows 3,4", "4"),
        ("1e3", "1e3"),
        ("none at all", None),
    ],
)
def test_the_last_number_is_taken_as_written(text: str, number: str | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["1,000", "1000", "1000.0", "$1,000", " 1000. ", "+1000", "1e3", "$1,000.00"])
def test_one_number_in_many_spellings(text: str) -> None:
    assert same_answer(text, "1000")
    assert same_answer("1000", text)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("Animal.", "animal", True),
        ("a  plant", "A plant", True),
        ("5 apples", "5", False),
        ("10,00", "1000", False),
        ("0.1", "0.10000000000000000001", False),
        ("-5", "5", False),
        ("-$5", "$-5", True),
        ("\u22125", "-5", True),
        ("50%", "50", True),
        ("", "", True),
        ("", "0", False),
        ("--5", "5", False),
        ("-$-5", "5", False),
        ("5\u00a0%", "5", True),
        ("$ 7.50", "7.5", True),
        ("20€", "20", True),
        ("-0", "0", True),
    ],
)
def test_numbers_as_numbers_and_words_as_words(a: str, b: str, equal: bool) -> None:
    assert same_answer(a, b) is equal


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4))
def test_thousands_commas_never_change_a_value(value: Decimal) -> None:
    assert as_number(f"{value:,f}") == value
    assert same_answer(f"{value:,f}", f"{value:f}")
    assert last_number(f"so it is {value:,f}") == f"{value:,f}"


@given(st.text(), st.text())
def test_comparing_any_texts_is_symmetric_and_never_fails(a: str, b: str) -> None:
    assert same_answer(a, b) is same_answer(b, a)
    assert same_answer(a, a)
    extract_tagged(a)
    last_number(a)
