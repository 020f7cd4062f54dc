"""Intervals and tests against published values and against exact enumeration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.evaluation import mcnemar_exact, paired_change, wilson_interval


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        # Newcombe, Stat. Med. 17 (1998) 857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_values(right: int, rows: int, low: float, high: float) -> None:
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.floats(0.5, 0.999), st.data())
def test_wilson_holds_the_share_and_mirrors(rows: int, confidence: float, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    low, high = wilson_interval(right, rows, confidence)
    assert 0.0 <= low <= right / rows <= high <= 1.0
    assert wilson_interval(rows - right, rows, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # Bentur et al. 2009 in Fagerland, Lydersen, Laake, Stat. Med. 33 (2014) 2850: 1 against 7 rows, P = 0.0703.
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar_exact(7, 1) == mcnemar_exact(1, 7)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(3, 3) == 1.0
    assert mcnemar_exact(2, 5) == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    assert mcnemar_exact(4000, 3800) == pytest.approx(_normal_tail(4000, 3800), abs=1e-4)


def test_a_paired_change_with_its_interval() -> None:
    # The same 21 children: 1 right before and after, 1 lost, 7 won, 12 wrong twice; the formula worked out by hand:
    # (8 - 2) / 23 = 0.26087, 1.95996 * sqrt((10 / 23 - 0.26087**2) / 23) = 0.24749.
    before = [True] * 2 + [False] * 19
    after = [True, False] + [True] * 7 + [False] * 12
    change = paired_change(before, after)
    assert (change.rows, change.wins, change.losses) == (21, 7, 1)
    assert change.difference == pytest.approx(6 / 21)
    assert (change.low, change.high) == pytest.approx((0.0134, 0.5084), abs=5e-5)


def test_no_change_has_an_interval_around_zero() -> None:
    change = paired_change([True, False] * 10, [True, False] * 10)
    assert (change.difference, change.p_value) == (0.0, 1.0)
    assert change.low < 0 < change.high


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    rows, won, lost = 40, 0.3, 0.1
    covered = 0.0
    for wins in range(rows + 1):
        for losses in range(rows + 1 - wins):
            weight = _multinomial(rows, wins, losses, won, lost)
            before = [False] * wins + [True] * (rows - wins)
            after = [True] * wins + [False] * losses + [True] * (rows - wins - losses)
            change = paired_change(before, after)
            covered += weight * (change.low <= won - lost <= change.high)
    assert 0.94 < covered < 0.97


def test_rows_must_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_change([True, False], [True])
    with pytest.raises(ValueError, match="at least one row"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 2, 95.0)


def _multinomial(rows: int, wins: int, losses: int, won: float, lost: float) -> float:
    rest = rows - wins - losses
    ways = math.comb(rows, wins) * math.comb(rows - wins, losses)
    return ways * won**wins * lost**losses * (1 - won - lost) ** rest


def _normal_tail(wins: int, losses: int) -> float:
    """McNemar with continuity correction: for thousands of rows it meets the exact test."""
    z = (abs(wins - losses) - 1) / math.sqrt(wins + losses)
    return math.erfc(z / math.sqrt(2))
