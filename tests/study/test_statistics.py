"""The numbers that say what is noise, against scipy, tables, and all cases counted out."""

import itertools

import pytest

from lorapar.evaluation.intervals import mcnemar_exact, rank_correlation
from lorapar.study.statistics import holm, seed_interval, sign_change_p, t_below, t_quantile


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_t_quantiles_are_those_of_the_table(degrees, expected):
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=1e-4)
    assert t_below(t_quantile(0.9, degrees), degrees) == pytest.approx(0.9)


def test_the_interval_over_seeds_is_students():
    low, high = seed_interval([0.4, 0.5, 0.6], 0.95)
    assert (low, high) == pytest.approx((0.5 - 4.3027 * 0.1 / 3**0.5, 0.5 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)
    assert seed_interval([0.4], 0.95) is None


@pytest.mark.parametrize("rows", [[1, 1, 1, -1, 0, 0], [3, -1, 2, 2, 0], [2, 2, -2, -1, 1, 1, 3], [0, 0], [1, -1]])
def test_the_test_over_rows_counts_all_changes_of_sign(rows):
    sums = [
        sum(sign * row for sign, row in zip(signs, rows, strict=True))
        for signs in itertools.product((1, -1), repeat=len(rows))
    ]
    expected = sum(abs(one) >= abs(sum(rows)) for one in sums) / len(sums)
    assert sign_change_p(rows) == pytest.approx(expected)


def test_with_one_answer_a_row_it_is_mcnemars():
    assert sign_change_p([1] * 9 + [-1] * 2 + [0] * 30) == mcnemar_exact(9, 2)


def test_rows_that_repeat_over_seeds_are_no_further_witnesses():
    once = sign_change_p([1] * 6)
    assert sign_change_p([3] * 6) == pytest.approx(once)
    assert sign_change_p([1] * 18) < once


def test_many_rows_stay_finite():
    assert 0 < sign_change_p([2] * 3000 + [-2] * 2900 + [1] * 500) < 1


def test_holm_steps_down_and_never_goes_back():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_ranks_correlate_as_scipy_says():
    stats = pytest.importorskip("scipy.stats")
    first, second = [3.0, 1.0, 1.0, 7.0, 5.0], [2.0, 2.0, 0.5, 9.0, 1.0]
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) == 0
