"""What counts as a right answer."""

from __future__ import annotations

import pytest

from lorapar.evaluation import lenient_match, strict_match


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("<reasoning>3+4=7</reasoning><answer>7</answer>", "7", True),
        ("<answer>1,000</answer>", "1000.0", True),
        ("7", "7", False),
        ("<answer>7", "7", False),
        ("<answer>7 apples</answer>", "7", True),
        ("<answer>7 apples and 2 pears</answer>", "7", False),
        ("<answer>(B) blue</answer>", "B", True),
        ("<answer>Tully</answer>", ("Marcus Tullius Cicero", "Tully"), True),
        ("<answer>8</answer> or <answer>7</answer>", "7", True),
        ("<answer>7</answer>", None, None),
    ],
)
def test_a_system2_answer_stands_between_the_tags(text: str, reference: str | None, right: bool | None) -> None:
    assert strict_match(text, reference, "system2") is right


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        (" Animal.\n", "animal", True),
        ("It is an animal", "animal", False),
        ("animals", "animal", False),
        ("7.0", "7", True),
        ("<answer>animal</answer>", "animal", True),
        ("", "animal", False),
        ("animal", None, None),
        ("B) blue", "B", True),
        ("1 000", "1000", True),
    ],
)
def test_a_system1_answer_is_taken_whole(text: str, reference: str | None, right: bool | None) -> None:
    assert strict_match(text, reference, "system1") is right


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("3+4=7, 7-2=5", "5", True),
        ("so 5. Then 6", "5", False),
        ("<answer>$1,000</answer>", "1000", True),
        ("no number", "5", False),
        ("It is an ANIMAL, I think.", "animal", True),
        ("animals", "animal", False),
        ("New\nYork it is", "new york.", True),
        ("c++ (a language)", "C++", True),
        ("anything", ".", False),
        ("5", None, None),
    ],
)
def test_lenient_looks_for_the_last_number_or_the_words(text: str, reference: str | None, right: bool | None) -> None:
    assert lenient_match(text, reference) is right
