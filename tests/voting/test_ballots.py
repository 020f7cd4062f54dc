"""Votes become labels, and asking stops exactly when nothing can change any more."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.config import TeacherConfig, VotingConfig
from lorapar.errors import BadInputError
from lorapar.voting.ballots import Ballots, quorum_size


def ballots(weights=(1.0, 1.0, 1.0), **voting) -> Ballots:
    teachers = [TeacherConfig(name=f"t{place}", weight=weight) for place, weight in enumerate(weights)]
    return Ballots(teachers, VotingConfig(**voting))


WEIGHTS = st.lists(st.sampled_from([1.0, 2.0, 0.5, 0.1, 0.2, 0.3, 0.7]), min_size=1, max_size=6)
VOTING = st.fixed_dictionaries(
    {
        "tie": st.sampled_from(["system1", "system2", "hold_out"]),
        "min_agreement": st.sampled_from([0.0, 0.5, 0.6, 0.75, 0.8, 1.0]),
        "below_agreement": st.sampled_from(["keep", "hold_out"]),
    }
)


def completions(pattern: str) -> list[str]:
    """Every way the remaining teachers may vote."""
    return ["".join(marks) for marks in product(*("12" if mark == "-" else mark for mark in pattern))]


@given(weights=WEIGHTS, voting=VOTING, marks=st.lists(st.sampled_from("12-"), min_size=6, max_size=6))
def test_decided_means_exactly_that_no_completion_gives_another_outcome(weights, voting, marks) -> None:
    rules = ballots(weights, **voting)
    pattern = "".join(marks[: len(weights)])
    ends = {(o.system, o.below_agreement) for o in map(rules.outcome, completions(pattern))}
    outcome = rules.outcome(pattern)
    # Nobody has voted: with one possible end only (all rows below agreement, say) somebody is asked all the same.
    assert outcome.decided == (len(ends) == 1 and set(pattern) != {"-"})
    if outcome.decided:
        assert (outcome.system, outcome.below_agreement) in ends


@given(
    weights=WEIGHTS,
    voting=VOTING,
    votes=st.lists(st.sampled_from("12"), min_size=6, max_size=6),
    data=st.data(),
)
def test_stopping_early_gives_the_labels_of_asking_everybody(weights, voting, votes, data) -> None:
    quorum = data.draw(st.integers(1, len(weights)))
    rules = ballots(weights, quorum=quorum, **voting)
    everybody = "".join(votes[: len(weights)])
    asked = quorum
    while not rules.outcome(everybody[:asked].ljust(len(weights), "-")).decided:
        asked += 1
    early, full = rules.outcome(everybody[:asked].ljust(len(weights), "-")), rules.outcome(everybody)
    assert (early.system, early.below_agreement) == (full.system, full.below_agreement)


@pytest.mark.parametrize(
    ("pattern", "voting", "system", "decided"),
    [
        ("11-", {}, "system1", True),
        ("12-", {}, "system2", False),
        ("122", {}, "system2", True),
        ("11-", {"min_agreement": 0.9}, "system1", False),
        ("112", {"min_agreement": 0.9}, "system1", True),
        ("112", {"min_agreement": 0.9, "below_agreement": "hold_out"}, None, True),
        ("12-", {"min_agreement": 1.0, "below_agreement": "hold_out"}, None, True),
        ("12--", {"tie": "system1"}, "system1", False),
        ("1122", {"tie": "system1"}, "system1", True),
        ("1122", {"tie": "hold_out"}, None, True),
        ("22--", {"tie": "system2"}, "system2", True),
        ("22--", {"tie": "system1"}, "system2", False),
    ],
)
def test_outcomes_by_hand(pattern, voting, system, decided) -> None:
    outcome = ballots((1.0,) * len(pattern), **voting).outcome(pattern)
    assert (outcome.system, outcome.decided) == (system, decided)


def test_agreement_and_ties_are_recorded() -> None:
    assert ballots().outcome("112").agreement == pytest.approx(2 / 3)
    assert ballots((1.0,) * 4).outcome("1122").tied
    assert not ballots((1.0,) * 4).outcome("12--").tied
    kept = ballots(min_agreement=0.9).outcome("112")
    assert (kept.system, kept.below_agreement) == ("system1", True)


def test_weights_are_taken_as_they_are_written() -> None:
    tenths = ballots((0.1, 0.2, 0.3), tie="hold_out")
    assert tenths.outcome("112").tied  # in binary fractions 0.1 + 0.2 is more than 0.3
    assert tenths.outcome("112").system is None
    assert tenths.weights("112") == {"system1": pytest.approx(0.3), "system2": pytest.approx(0.3)}
    assert ballots((5.0, 1.0, 1.0)).outcome("1--") == ballots((5.0, 1.0, 1.0)).outcome("1--")
    assert ballots((5.0, 1.0, 1.0)).outcome("1--").decided
    assert ballots((3.0, 1.0, 1.0), min_agreement=0.6).outcome("122").below_agreement is False


@pytest.mark.parametrize(("teachers", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_the_quorum_is_a_bare_majority_unless_set(teachers, quorum) -> None:
    assert quorum_size(teachers, None) == quorum
    assert quorum_size(teachers, 1) == 1


def test_rounds_share_out_the_teachers() -> None:
    rules = ballots((1.0,) * 5)
    assert rules.round_teachers("first") == ("t0", "t1", "t2")
    assert rules.round_teachers("rest") == ("t3", "t4")


def test_a_stranger_and_a_second_vote_are_refused() -> None:
    rules = ballots()
    pattern = rules.add(rules.nobody, "row-7", "t1", "system1")
    assert pattern == "-1-"
    with pytest.raises(BadInputError, match="row row-7: teacher 't1' voted twice"):
        rules.add(pattern, "row-7", "t1", "system1")
    with pytest.raises(
        BadInputError, match=r"row row-7: a vote of 'x', which is not one of the teachers \(t0, t1, t2\)"
    ):
        rules.add(pattern, "row-7", "x", "system1")


def test_who_failed_is_not_waited_for() -> None:
    rules = ballots(min_teachers=2)
    assert rules.may_fail == 1
    assert rules.mark_absent("1--", ["t0", "t2"]) == "1-x"
    assert not rules.outcome("1-x").decided
    tied = rules.outcome("12x")
    assert (tied.system, tied.decided, tied.tied) == ("system2", True, True)
    assert not rules.outcome("12-").tied
    nobody = rules.outcome("xxx")
    assert (nobody.system, nobody.decided) == (None, True)
    assert ballots().may_fail == 0


THREE = ("recall", "sums", "code")


def all_ends(weights, sides, remaining):
    """Every way in which the remaining teachers can still vote, as final weights."""
    for cast in product(range(len(sides)), repeat=len(remaining)):
        ends = list(sides)
        for place, weight in zip(cast, remaining, strict=True):
            ends[place] += weight
        yield tuple(ends)


@given(
    pattern=st.lists(st.sampled_from("123-x"), min_size=1, max_size=5),
    weights=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    tie=st.sampled_from((*THREE, "hold_out")),
    least=st.sampled_from((0.0, 0.5, 0.6)),
    below=st.sampled_from(("keep", "hold_out")),
)
def test_several_systems_are_decided_exactly_when_no_vote_can_change_the_label(pattern, weights, tie, least, below):
    teachers = [TeacherConfig(name=f"t{place}", weight=weights[place]) for place in range(len(pattern))]
    voting = VotingConfig(tie=tie, min_agreement=least, below_agreement=below)
    ballots = Ballots(teachers, voting, THREE)
    marks = dict(zip("123", THREE, strict=True))
    sides = tuple(sum(w for w, m in zip(weights, pattern, strict=False) if m == mark) for mark in "123")
    remaining = [w for w, m in zip(weights, pattern, strict=False) if m == "-"]
    ends = set()
    for end in all_ends(weights, sides, remaining):
        first = [marks[str(place + 1)] for place in range(3) if end[place] == max(end)]
        short = sum(end) > 0 and max(end) < Fraction(str(least)) * sum(end)
        label = first[0] if len(first) == 1 else tie if tie in first else None if tie == "hold_out" else first[-1]
        ends.add((None if short and below == "hold_out" else label, short))
    outcome = ballots.outcome("".join(pattern))
    if not sum(sides):
        assert (outcome.decided, outcome.system) == (not remaining, None)
        return
    assert outcome.decided == (len(ends) == 1)
    if outcome.decided:
        assert {(outcome.system, outcome.below_agreement)} == ends
    assert ballots.weights("".join(pattern)) == dict(zip(THREE, map(float, sides), strict=True))


def test_a_tie_of_several_goes_to_the_named_system_only_where_that_is_among_the_tied():
    teachers = [TeacherConfig(name=f"t{place}") for place in range(4)]
    ballots = Ballots(teachers, VotingConfig(tie="recall"), THREE)
    assert (ballots.outcome("1122").system, ballots.outcome("1122").tied) == ("recall", True)
    assert ballots.outcome("2233").system == "code", "the last of the tied"
    assert (ballots.outcome("1233").system, ballots.outcome("1233").tied) == ("code", False)
