"""Curves over the steps of training."""

from __future__ import annotations

import math

import pytest

from lorapar.report.training import ends, moving_mean, rl_curves, series, sft_curves

STEPS = [{"step": step, "loss": 10.0 - step, "grad_norm": 1.0} for step in range(1, 11)]


def test_the_moving_mean_looks_both_ways() -> None:
    points = [(float(step), float(step)) for step in range(5)]
    assert moving_mean(points, 3) == [(0.0, 0.5), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 3.5)]
    assert moving_mean(points, 1) == points


def test_values_that_were_not_logged_or_are_not_finite_are_left_out() -> None:
    steps = [{"step": 1, "kl": 0.5}, {"step": 2}, {"step": 3, "kl": math.nan}, {"step": 4, "kl": 0.25}]
    assert series(steps, "kl") == [(1.0, 0.5), (4.0, 0.25)]


def test_ends_are_means_over_a_fifth_of_the_steps() -> None:
    assert ends(STEPS, "loss") == ("8.5", "0.5")
    assert ends([], "loss") is None


def test_sft_draws_its_loss() -> None:
    assert [curve.title for curve in sft_curves(STEPS)] == ["Loss", "Gradient norm of the active elements"]
    assert sft_curves([]) == []


def test_rl_draws_what_was_logged() -> None:
    plain = [{"step": step, "reward": 1.0} for step in (1, 2)]
    assert [curve.title for curve in rl_curves(plain)] == ["Reward"]
    whole = [
        {"step": 1, "reward": 1.0, "reward_exact_answer": 0.5, "reward_my.own:rule": 1.0, "kl": 0.0},
        {"step": 2, "reward": 2.0, "reward_exact_answer": 0.7, "reward_my.own:rule": 0.0, "kl": 0.1},
    ]
    titles = [curve.title for curve in rl_curves(whole)]
    assert titles == ["Reward", "Parts of the reward", "KL to the reference model"]
    assert [name for _, name in rl_curves(whole)[1].legend] == ["exact_answer", "my.own:rule"]


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_any_number_of_steps_makes_a_drawing_of_bounded_size(count: int) -> None:
    steps = [{"step": step, "loss": 1.0} for step in range(1, count + 1)]
    (curve,) = sft_curves(steps)
    assert len(curve.drawing) < 30_000
