"""The vote's section."""

from __future__ import annotations

import pytest

from lorapar.report.sources import Facts, ReportSources, read_facts
from lorapar.report.votes import (
    agreement_matrix,
    calibration_rows,
    confusion_matrix,
    contested_rows,
    failed_notice,
    same_model_notice,
    shown_rows,
    teacher_rows,
    vote_facts,
)


@pytest.fixture(scope="module")
def facts(sources: ReportSources) -> Facts:
    """What a whole run left."""
    return read_facts(sources)


def test_agreement_is_symmetric_and_says_kappa(facts: Facts) -> None:
    matrix = agreement_matrix(facts.voting or {})
    assert matrix is not None
    assert matrix.rows == matrix.columns == ("examples-first", "question-first")
    assert matrix.cells[0][1] == matrix.cells[1][0]
    assert matrix.cells[0][1].small.startswith("κ 0.")


def test_one_teacher_agrees_with_nobody() -> None:
    assert agreement_matrix({"agreement": {"teachers": ["alone"], "raw": [[1.0]], "kappa": [[None]]}}) is None
    assert agreement_matrix({}) is None


def test_confusion_counts_and_shares_of_each_row() -> None:
    matrix = confusion_matrix({"system1": {"system1": 3, "held_out": 1}, "system2": {"system2": 4}})
    assert matrix is not None
    assert matrix.columns == ("System 1", "System 2", "held out")
    assert [(cell.words, cell.small) for cell in matrix.cells[0]] == [("3", "75%"), ("0", "0%"), ("1", "25%")]
    assert confusion_matrix(None) is None


def test_teachers_that_are_the_base_are_named(facts: Facts) -> None:
    notice = same_model_notice(facts)
    assert notice is not None
    assert notice.startswith("All teachers (examples-first, question-first, terse) are the base model itself")
    other = Facts(voting={"teachers": {"big": {"teacher_is_base": False}, "self": {"teacher_is_base": True}}})
    assert (same_model_notice(other) or "").startswith("Some teachers (self) are")
    assert same_model_notice(Facts(voting={"teachers": {"big": {"teacher_is_base": False}}})) is None


def test_teachers_of_the_second_round_are_reported_separately(facts: Facts) -> None:
    rounds = {row["name"]: row["round"] for row in teacher_rows(facts)}
    assert rounds == {"examples-first": "first", "question-first": "first", "terse": "rest"}


def test_saved_calls_are_a_share_of_all(facts: Facts) -> None:
    voting = facts.voting or {}
    meanings = {name: meaning for name, _, meaning in vote_facts(voting)}
    share = voting["calls_saved"] / (voting["calls"] + voting["calls_saved"])
    assert meanings["Calls saved"].startswith(f"{100 * share:.1f}% of all calls")


def test_rows_to_look_at_carry_their_votes(facts: Facts) -> None:
    shown = shown_rows(facts, "system1", 5)
    assert len(shown) == 5
    assert {row.label for row in shown} == {"System 1"}
    labelled = [label.example_id for label in facts.labels or () if label.system == "system1"]
    assert len(shown_rows(facts, "system1", 10_000)) == len(labelled)
    assert shown[1].question == facts.examples[labelled[len(labelled) // 5]].question
    assert shown_rows(facts, "system1", 0) == []
    contested = contested_rows(facts, 3)
    assert all(
        {vote.split(": ")[1].split(" (")[0] for vote in row.votes} == {"System 1", "System 2"} for row in contested
    )


def test_figures_with_and_without_calibration_stand_side_by_side() -> None:
    assert calibration_rows({"rows": {"system1": 3}}) == []
    voting = {
        "rows": {"system1": 3, "system2": 1, "undecided": 0},
        "teachers": {"a": {"system1_share": 0.75}},
        "gold": {"accuracy": 1.0},
        "without_calibration": {
            "rows": {"system1": 4, "system2": 0, "undecided": 0},
            "system1_share": {"a": 1.0},
            "gold_accuracy": 0.5,
            "changed_rows": 1,
        },
    }
    assert calibration_rows(voting) == [
        ("Labelled System 1", "3", "4"),
        ("Labelled System 2", "1", "0"),
        ("Undecided", "0", "0"),
        ("a said System 1", "75.0%", "100.0%"),
        ("Right labels", "100.0%", "50.0%"),
    ]


def test_teachers_that_failed_are_named_with_the_reason() -> None:
    assert failed_notice({}) is None
    notice = failed_notice({"failed": {"far": "teacher 'far': no answer"}})
    assert notice is not None
    assert notice.startswith("The vote went on without far")
    assert "no answer" in notice


def test_labels_set_by_a_person_are_counted() -> None:
    assert ("Set by a person", "3", "these labels overrule the vote") in vote_facts({"edited_rows": 3})
    assert not [name for name, *_ in vote_facts({"edited_rows": 0}) if name == "Set by a person"]


def test_labels_that_nobody_voted_on_are_reported_with_how_many_are_right() -> None:
    given = {"labels": "random", "rows": {"system1": 14, "system2": 10}, "gold_accuracy": 1 / 3}
    (fact,) = [one for one in vote_facts({"given": given}) if one[0] == "Labelled without votes"]
    assert fact[1] == "14 System 1, 10 System 2"
    assert fact[2].startswith("training rows, by chance, as a control (voting.labels); 33.3% of those")
    given |= {"labels": "data", "gold_accuracy": None}
    (fact,) = [one for one in vote_facts({"given": given}) if one[0] == "Labelled without votes"]
    assert fact[2] == "training rows, as the data name them (voting.labels)"
    assert not [name for name, *_ in vote_facts({}) if name == "Labelled without votes"]
