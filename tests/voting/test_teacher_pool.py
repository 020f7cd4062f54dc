"""Biases: measured on the same rows whatever their order, subtracted exactly, and refused where nothing is known."""

from __future__ import annotations

import math
import random

import pytest

from lorapar.errors import BadInputError
from lorapar.records import Example, Vote
from lorapar.voting.teacher_pool import bias, calibrated, probe_rows


def vote(odds: float, example_id: str = "r") -> Vote:
    log_probs = {"system1": -3.0 + odds, "system2": -3.0}
    label = "system1" if odds > 0 else "system2"
    return Vote(example_id=example_id, teacher="t", label=label, log_probs=log_probs, template="d", raw="")


def test_a_teacher_that_always_says_one_thing_is_split_at_its_mean() -> None:
    votes = [vote(odds) for odds in (5.0, 4.0, 2.0, 1.0)]
    lean = bias(votes)
    assert lean == {"system1": pytest.approx(3.0), "system2": 0.0}
    after = [calibrated(one, lean) for one in votes]
    assert [one.label for one in after] == ["system1", "system1", "system2", "system2"]
    assert {one.uncalibrated for one in after} == {"system1"}
    assert after[0].confidence == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert after[0].log_probs == votes[0].log_probs  # what the teacher said stays


def test_a_teacher_without_a_bias_is_left_as_it_was() -> None:
    votes = [vote(2.0), vote(-2.0)]
    assert bias(votes) == {"system1": pytest.approx(0.0), "system2": 0.0}
    assert [calibrated(one, bias(votes)).label for one in votes] == ["system1", "system2"]


def test_of_several_systems_each_has_a_bias_against_the_last() -> None:
    log_probs = ({"a": -1.0, "b": -2.0, "c": -4.0}, {"a": -1.0, "b": -3.0, "c": -2.0})
    votes = [Vote(example_id="r", teacher="t", label="a", log_probs=one, template="d", raw="") for one in log_probs]
    lean = bias(votes)
    assert lean == {"a": 2.0, "b": 0.5, "c": 0.0}
    after = [calibrated(one, lean) for one in votes]
    assert [one.label for one in after] == ["b", "c"], "odds 3, 2, 0 and 1, -1, 0, less the bias"
    assert after[0].confidence == pytest.approx(math.exp(1.5) / (math.exp(1.0) + math.exp(1.5) + 1.0))


def test_probe_rows_depend_on_contents_only_and_hardly_change_as_data_grow() -> None:
    rows = [Example(id=f"r{number}", question=f"q{number}", answer="a") for number in range(300)]
    chosen = probe_rows(rows, 20)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert probe_rows(shuffled, 20) == chosen
    renamed = [row.model_copy(update={"id": f"other-{row.id}"}) for row in rows]
    assert [row.question for row in probe_rows(renamed, 20)] == [row.question for row in chosen]
    assert len(probe_rows(rows[:7], 20)) == 7
    smaller = probe_rows(rows[:270], 20)
    assert len({row.id for row in smaller} & {row.id for row in chosen}) >= 14


def test_votes_without_log_probabilities_cannot_be_calibrated() -> None:
    silent = Vote(example_id="r", teacher="behind-api", label="system1", template="d", raw="")
    with pytest.raises(BadInputError, match="teacher 'behind-api': its endpoint gives no log-probabilities"):
        bias([silent])
    with pytest.raises(BadInputError, match="there are none"):
        bias([])
