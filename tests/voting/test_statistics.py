"""Coefficients against published examples and against a computation straight from their definitions."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.voting.statistics import accuracy, cohen_kappa, confusion, krippendorff_alpha, pairwise


def table(both_yes, yes_no, no_yes, both_no):
    return {("1", "1"): both_yes, ("1", "2"): yes_no, ("2", "1"): no_yes, ("2", "2"): both_no}


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [((20, 5, 10, 15), 0.4), ((45, 15, 25, 15), 0.1304), ((25, 35, 5, 35), 0.2593)],
)
def test_kappa_of_published_tables(counts, kappa) -> None:
    assert cohen_kappa(table(*counts)) == pytest.approx(kappa, abs=5e-5)


def test_kappa_is_undefined_where_both_always_say_the_same() -> None:
    assert cohen_kappa(table(10, 0, 0, 0)) is None
    assert cohen_kappa({}) is None
    assert cohen_kappa(table(5, 0, 0, 5)) == 1.0


def units(*observers: str) -> Counter[str]:
    return Counter("".join(marks) for marks in zip(*observers, strict=True))


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: A binary, B nominal, C with missing data.
        (("0100000010", "1110010000"), 0.095),
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412---", "1233224125-3", "-3332342251-", "12332441251-"), 0.743),
        # Three coders and many gaps, as in Wikipedia's "Krippendorff's alpha".
        (("-----34121133-3", "1-213343-------", "--21344-21133-4"), 0.691),
    ],
    ids=["binary", "nominal", "missing", "mostly missing"],
)
def test_alpha_of_published_examples(observers, alpha) -> None:
    assert krippendorff_alpha(units(*observers)) == pytest.approx(alpha, abs=5e-4)


def straight_alpha(columns) -> float | None:
    """From the definition: the matrix of coincidences, pair by pair."""
    coincidences: Counter[tuple[str, str]] = Counter()
    for column in columns:
        marks = [mark for mark in column if mark != "-"]
        for one, other in permutations(range(len(marks)), 2):
            coincidences[marks[one], marks[other]] += 1 / (len(marks) - 1)
    margin: Counter[str] = Counter()
    for (one, _), value in coincidences.items():
        margin[one] += value
    number = sum(margin.values())
    expected = sum(margin[a] * margin[b] for a in margin for b in margin if a != b)
    if not expected:
        return None
    return 1 - (number - 1) * sum(v for (a, b), v in coincidences.items() if a != b) / expected


@given(st.lists(st.text("12-", min_size=4, max_size=4), max_size=30))
def test_alpha_equals_its_definition(columns) -> None:
    expected = straight_alpha(columns)
    found = krippendorff_alpha(Counter(columns))
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected)


def test_pairs_are_compared_over_the_rows_both_voted_on() -> None:
    patterns = {"11": 20, "12": 5, "21": 10, "22": 15, "1-": 1000}
    raw, kappa = pairwise(patterns, (0, 1))
    assert raw == [[1.0, 0.7], [0.7, 1.0]]
    assert kappa[0][1] == kappa[1][0] == pytest.approx(0.4)
    assert pairwise({"1-": 3}, (0, 1))[0][0][1] is None


def test_accuracy_leaves_held_out_rows_aside() -> None:
    counts = confusion(
        [("system1", "system1", 6), ("system1", "system2", 2), ("system2", "system2", 2), ("system2", "held_out", 9)]
    )
    assert counts == {"system1": {"system1": 6, "system2": 2}, "system2": {"held_out": 9, "system2": 2}}
    assert accuracy(counts) == pytest.approx(0.8)
    assert accuracy({"system1": {"held_out": 3}}) is None
