"""Figures in words."""

from __future__ import annotations

import math

import pytest

from lorapar.report import formats

MINUS, DASH = "\u2212", "\u2013"


@pytest.mark.parametrize(
    ("value", "words"), [(0.906, "90.6%"), (0.0, "0.0%"), (None, DASH), (math.nan, DASH), (True, DASH)]
)
def test_percent(value: object, words: str) -> None:
    assert formats.percent(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.3125, "+31.2"), (-0.0469, f"{MINUS}4.7"), (0.0, "0"), (-0.0001, "0"), (None, DASH)]
)
def test_points_carry_their_sign(value: object, words: str) -> None:
    assert formats.points(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "p < 0.001"), (0.0412, "p = 0.041"), (0.4531, "p = 0.45"), (1.0, "p = 1.00")]
)
def test_p_values(value: float, words: str) -> None:
    assert formats.p_value(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7380, "2 h 03 min"), (None, DASH)],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert formats.duration(seconds) == words


def test_intervals_numbers_and_sizes() -> None:
    assert formats.interval([0.81, 0.956]) == f"81.0{DASH}95.6%"
    assert formats.interval(None) == DASH
    assert (formats.number(1234567), formats.number(0.39912), formats.number(3.0)) == ("1,234,567", "0.3991", "3")
    assert (formats.size(1_200_000_000), formats.size(0)) == ("1.2 GB", DASH)
    assert (formats.count_of(1, "row"), formats.count_of(1200, "row")) == ("1 row", "1,200 rows")


def test_long_texts_say_how_much_was_cut() -> None:
    assert formats.shorten("abc", 3) == "abc"
    assert formats.shorten("a" * 1500, 500) == "a" * 500 + " … (1,000 more characters)"


def test_control_characters_become_visible() -> None:
    assert formats.shorten("a\x00b\x1b[31m\x7f\x85\n\tc", 99) == "a\u2400b\u241b[31m\ufffd\ufffd\n\tc"
