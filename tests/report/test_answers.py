"""The answers that are shown: chosen by a rule, losses included."""

from __future__ import annotations

from itertools import product

import pytest

from lorapar.records import Answer, Example, System
from lorapar.report.outcome import choose_samples, group_of

MODELS = ("base", "after_sft", "after_rl")


def answers(row: str, system: System, verdicts: str) -> list[Answer]:
    """One row's answers: `+` right, `-` wrong, `?` nothing to compare with, for base, after SFT and after RL."""
    right = {"+": True, "-": False, "?": None}
    return [
        Answer(
            example_id=row,
            system=system,
            model=model,
            text=mark,
            tokens=1,
            strict=right[mark],
            lenient=right[mark],
            loss=1.0,
        )
        for model, mark in zip(MODELS, verdicts, strict=True)
    ]


@pytest.mark.parametrize(
    ("verdicts", "group"),
    [
        ("---", "never right"),
        ("-++", "won"),
        ("--+", "won"),
        ("+++", "kept"),
        ("+-+", "kept"),
        ("+--", "lost"),
        ("-+-", "lost"),
        ("++-", "lost"),
        ("???", "not compared"),
    ],
)
def test_groups(verdicts: str, group: str) -> None:
    assert group_of({answer.model: answer for answer in answers("row", "system1", verdicts)}) == group


def rows(system: System, count: int, verdicts: str) -> list[Answer]:
    return [answer for n in range(count) for answer in answers(f"{system}{verdicts}{n}", system, verdicts)]


def test_every_group_has_its_turn_and_losses_come_first() -> None:
    everything = rows("system1", 40, "--+") + rows("system1", 2, "-+-") + rows("system1", 9, "---")
    samples, sizes = choose_samples(everything, {}, 6)
    assert [sample.group for sample in samples] == ["lost", "won", "never right"] * 2
    assert {(size.group, size.rows, size.shown) for size in sizes} == {
        ("lost", 2, 2),
        ("won", 40, 2),
        ("never right", 9, 2),
    }


def test_the_places_are_shared_between_the_systems() -> None:
    many = rows("system1", 20, "--+") + rows("system2", 20, "--+")
    few = rows("system1", 20, "--+") + rows("system2", 2, "--+")
    for given, shares in ((many, (5, 5)), (few, (8, 2))):
        samples, _ = choose_samples(given, {}, 10)
        assert tuple(sum(s.system == name for s in samples) for name in ("System 1", "System 2")) == shares


def test_the_choice_depends_on_nothing_but_the_rows() -> None:
    everything = [*rows("system1", 12, "--+"), *rows("system2", 12, "-+-")]
    shown = [sample.question for sample in choose_samples(everything, {}, 4)[0]]
    assert [sample.question for sample in choose_samples(everything[::-1], {}, 4)[0]] == shown


def test_a_sample_carries_question_reference_and_answers_in_order() -> None:
    example = Example(id="row", question="2+2?", answer="<answer>4</answer>", reference="4")
    (sample,), _ = choose_samples(answers("row", "system2", "--+")[::-1], {"row": example}, 10)
    assert (sample.question, sample.reference) == ("2+2?", "4")
    assert [model for model, _ in sample.answers] == list(MODELS)


def test_fewer_rows_than_places_and_no_places() -> None:
    everything = [one for a, b in product("+-", "+-") for one in answers(a + b, "system1", f"-{a}{b}")]
    assert len(choose_samples(everything, {}, 10)[0]) == 4
    assert choose_samples(everything, {}, 0)[0] == []
