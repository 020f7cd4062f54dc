"""The pick among a run's adapters, from verdicts on development rows that are counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.evaluation.pick import pick_adapter, rows_needed


def verdicts(right: int, rows: int = 40, start: int = 0) -> dict[str, bool]:
    """Of rows r0, r1, ... some from `start` on are right."""
    return {f"r{n}": start <= n < start + right for n in range(rows)}


def test_the_last_one_stays_unless_another_is_better_by_the_test() -> None:
    pick = pick_adapter({10: verdicts(12), 20: verdicts(17), 30: verdicts(10)}, confidence=0.95)
    assert (pick.step, pick.last, pick.rows, pick.p_below) == (20, 30, 40, pytest.approx(0.025))
    by_step = {one.step: one for one in pick.tried}
    assert (by_step[20].change.wins, by_step[20].change.losses, by_step[20].better) == (7, 0, True)
    assert (by_step[10].change.wins, by_step[10].better) == (2, False)
    assert by_step[30].change is None
    assert pick.sentence == (
        "the adapter after step 20 of 30 is published: right on 17 of 40 development rows, the last one on 10 "
        "(p = 0.016, below 0.025)"
    )


def test_more_candidates_ask_for_more() -> None:
    few = {10: verdicts(16), 20: verdicts(10)}
    assert pick_adapter(few, 0.95).step == 10, "6 won, none lost: p = 0.031 of one comparison"
    many = few | {2: verdicts(10), 4: verdicts(10)}
    assert pick_adapter(many, 0.95).step == 20, "of three comparisons it has to be below 0.0167"
    assert "no earlier one is better by the test (10 of 40 rows)" in pick_adapter(many, 0.95).sentence


def test_rows_that_are_lost_count_against_it() -> None:
    assert pick_adapter({5: verdicts(17, start=5), 10: verdicts(10)}, 0.95).step == 10, "12 won, 5 lost: p = 0.14"
    assert pick_adapter({5: verdicts(17), 10: verdicts(10)}, 0.95).step == 5, "7 won, none lost: p = 0.016"


def test_of_equals_the_latest_is_picked_and_a_worse_one_never() -> None:
    assert pick_adapter({2: verdicts(20), 4: verdicts(20), 6: verdicts(5)}, 0.95).step == 4
    assert pick_adapter({2: verdicts(0), 6: verdicts(30)}, 0.95).step == 6
    alone = pick_adapter({6: verdicts(3)}, 0.95)
    assert (alone.step, "there is no earlier one" in alone.sentence) == (6, True)


@given(st.integers(1, 19), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_fewest_rows_that_can_show_a_better_one(comparisons: int, confidence: float) -> None:
    needed = rows_needed(comparisons, confidence)
    rows = dict(enumerate(range(needed)))
    last, none = comparisons + 1, {f"r{n}": False for n in rows}
    others = dict.fromkeys(range(2, last + 1), none)
    assert pick_adapter({1: dict.fromkeys(none, True), **others}, confidence).step == 1
    fewer = {row: int(row[1:]) < needed - 1 for row in none}
    assert pick_adapter({1: fewer, **others}, confidence).step == last


def test_the_document_has_every_adapter_for_lineage_and_report() -> None:
    message = pick_adapter({10: verdicts(17), 30: verdicts(10)}, 0.95).document()
    assert (message["step"], message["steps"], message["development_rows"]) == (10, 30, 40)
    first, last = message["candidates"]
    assert last == {"step": 30, "right": 10}
    assert {key: first[key] for key in ("step", "right", "wins", "losses", "better")} == {
        "step": 10, "right": 17, "wins": 7, "losses": 0, "better": True,
    }  # fmt: skip
    assert first["difference"] == pytest.approx(7 / 40)
    assert first["interval"][0] < first["difference"] < first["interval"][1]
