"""The gate: a gain on the same rows that is more than noise, and no measure that loses more than it may."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from lorapar.config import GateConfig
from lorapar.errors import BadInputError
from lorapar.evaluation import judge


def rows(both: int, won: int, lost: int, neither: int = 0) -> dict[str, dict[str, bool]]:
    """Answers of the base and of a candidate: right on both, won, lost, right on neither."""
    pairs = [(True, True)] * both + [(False, True)] * won + [(True, False)] * lost + [(False, False)] * neither
    return {
        "base": {f"r{number}": old for number, (old, _) in enumerate(pairs)},
        "after_rl": {f"r{number}": new for number, (_, new) in enumerate(pairs)},
    }


def test_a_clear_gain_is_better_and_the_reason_has_the_figures() -> None:
    found = judge({"system1": rows(40, 2, 1), "system2": rows(20, 30, 5, 45)}, GateConfig(), "base")
    assert found.better
    assert (found.gain.wins, found.gain.losses, found.gain.rows) == (32, 6, 143)
    assert found.gain.p_value == pytest.approx(2 * sum(math.comb(38, k) for k in range(7)) / 2**38)
    assert found.gain.difference == pytest.approx(26 / 143)
    low, high = found.gain.interval
    assert low < found.gain.difference < high
    assert "right on 64.3% of 143 rows against 46.2% for the base model, +18.2 points" in found.reasons[0]
    assert found.reasons[1] == "no measure fell by more than allowed (system1, system2)"


@pytest.mark.parametrize(
    ("outcome", "settings", "reason"),
    [
        (rows(50, 5, 5), {}, "that is no gain"),
        (rows(50, 0, 0), {}, "that is no gain"),
        (rows(50, 0, 10), {}, "that is no gain"),
        (rows(50, 6, 3), {}, "within noise"),
        (rows(500, 30, 5), {"minimum_gain": 0.05}, r"less than the minimum gain of \+5.0 points"),
    ],
)
def test_not_better_says_why(outcome, settings, reason) -> None:
    import re

    found = judge({"system1": outcome}, GateConfig(measures=("system1",), max_loss=1.0, **settings), "base")
    assert not found.better
    assert re.search(reason, found.reasons[0])


def test_so_few_rows_that_nothing_would_be_better_are_named_as_the_reason() -> None:
    settings = GateConfig(measures=("system1",), confidence=0.9)
    found = judge({"system1": rows(0, 4, 0)}, settings, "base")
    assert not found.better
    assert found.reasons[-1].startswith("only 4 rows could be judged: even with every one won p would be 0.12, so ")
    assert "raise data.heldout" in judge({"system1": rows(4, 0, 0)}, settings, "base").reasons[-1]
    enough = judge({"system1": rows(0, 5, 0)}, settings, "base")
    assert enough.better
    assert not any("could be judged" in reason for reason in enough.reasons)


def test_a_minimum_gain_that_is_reached_exactly_is_reached() -> None:
    settings = GateConfig(measures=("system1",), minimum_gain=0.1)
    assert judge({"system1": rows(80, 10, 0, 10)}, settings, "base").better


def test_a_guard_holds_back_a_candidate_that_gains_elsewhere() -> None:
    outcomes = {"system1": rows(40, 0, 6, 4), "system2": rows(20, 40, 0, 40), "mmlu": rows(900, 5, 45, 50)}
    found = judge(outcomes, GateConfig(), "base")
    assert not found.better
    assert "system1 changed by -12.0 points" in found.reasons[1]
    assert "must not lose more than 5" in found.reasons[1]
    assert [guard.held for guard in found.guards] == [False, True, True]
    allowed = judge(outcomes, GateConfig(max_loss_of={"system1": 0.12}), "base")
    assert allowed.better
    strict = judge(outcomes, GateConfig(max_loss_of={"system1": 0.12, "mmlu": 0.03}), "base")
    assert "mmlu changed by -4.0 points" in strict.reasons[1]


def test_a_guard_by_interval_asks_for_proof_that_nothing_was_lost() -> None:
    outcomes = {"system1": rows(40, 0, 0), "system2": rows(20, 40, 0, 40)}
    assert judge(outcomes, GateConfig(), "base").better
    found = judge(outcomes, GateConfig(loss_judged_by="interval"), "base")
    assert "its interval does not exclude more" in found.reasons[1]
    many = {**outcomes, "system1": rows(4000, 0, 0)}
    assert judge(many, GateConfig(loss_judged_by="interval"), "base").better


@pytest.mark.parametrize("settings", [{"measures": ("sytem1",)}, {"max_loss_of": {"sytem1": 0.1}}])
def test_a_measure_that_was_not_evaluated_is_refused(settings) -> None:
    with pytest.raises(BadInputError, match=r"'sytem1' was not evaluated.*did you mean 'system1'"):
        judge({"system1": rows(1, 1, 0), "system2": rows(1, 1, 0)}, GateConfig(**settings), "base")


def test_models_that_answered_different_rows_are_not_compared() -> None:
    outcome = rows(10, 5, 0)
    del outcome["base"]["r3"]
    with pytest.raises(BadInputError, match="base answered 14 rows and the candidate 15"):
        judge({"system1": outcome}, GateConfig(measures=("system1",)), "base")
    with pytest.raises(BadInputError, match="incumbent answered 0 rows"):
        judge({"system1": rows(10, 5, 0)}, GateConfig(measures=("system1",)), "incumbent")


def test_a_measure_that_is_named_twice_is_refused_because_its_rows_would_count_twice() -> None:
    outcomes = {"system1": rows(0, 4, 0, 36)}
    assert not judge(outcomes, GateConfig(measures=("system1",)), "base").better, "4 rows won are within noise"
    with pytest.raises(ValidationError, match="measures: system1 is named twice; name each once"):
        GateConfig(measures=("system1", "system1"))
