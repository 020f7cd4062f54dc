"""How an answer is found in a longer text, and one table of answers for rewards, accuracy and benchmarks alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lorapar.answers import as_number, is_found_in, last_choice, same_answer
from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.benchmarks.scoring import gsm8k
from lorapar.training.rewards import exact_answer, integer_answer


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[4, 9]",
            "(4; 9)",
            "\\{4, 9\\}",
            "x \\in [4, 9]",
            "4, 9",
            "4 and 9",
            "4 or 9",
            "4 pears or 9 plums",
            "x = 4 or x = 9",
        ),
        *("4-9", "4 \u2013 9", "4 to 9", "between 4 and 9", "$4-$9", "a = 4, b = 9"),
        *("4 \u00b1 9", "\u00b19", "4 +/- 9", "\\pm 9", "9 \\pm 4", "9+"),
        *("at least 9", "\\geq 9", "9 or more", "not 9", "no more than 9", "x>9"),
        *(
            "9th",
            "9 million",
            "9k",
            "9-million",
            "9 dozen",
            "9\\pi",
            "\\sqrt{9}",
            "\u221a9",
            "log_2 9",
            "twice 9",
            "x_9",
            "9i",
        ),
        *("4 x 9", "4*9", "4 + 9", "4 \\times 9", "4(9)", "4\u00f79", "4 of 9", "4 in 9", "4 out of 9", "4 vs 9"),
        *(
            "2024-05-09",
            "1.2.9",
            "May 9",
            "9 May",
            "9 pm",
            "4 ft 9 in",
            "4 hours 9 minutes",
            "4'9",
            "H9",
            "GPT-9",
            "0.\\overline{9}",
        ),
        *("0.9...", "x**9", "\\frac{a}{9}", "9/x"),
    ],
)
def test_a_number_that_is_a_part_of_something_else_is_not_the_answer(text: str) -> None:
    for message in (text, f"so the answer is {text}", f"<answer>{text}</answer>"):
        assert not is_found_in(message, "0.9" if text.startswith("0.9") else "9"), message


@pytest.mark.parametrize(
    "text",
    [
        *(
            "it is 9, and that is all",
            "9 of them are left",
            "the total: **9**",
            "3 * 3 = $<<3*3=9>>9 a day",
            "1. 4\n2. 9",
        ),
        *(
            "after 4 days, 9 pears are left",
            "in 2019, 9 people came",
            "=> 9",
            "<b>9</b>",
            "a = 4, b = 5, so a+b = 9",
            "about 9",
        ),
        *(
            "it is 9!",
            "20 - 11 = 9",
            "50% of 18 is 9.",
            "\\[ 3 \\times 3 = 9 \\]",
            "f(3) = 9",
            "9 (rounded)",
            "Step 2: 9",
            "9 m",
        ),
    ],
)
def test_the_last_number_of_a_sentence_is(text: str) -> None:
    assert is_found_in(text, "9")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It is a dog.", None),
        ("I like them both", None),
        ("D, because A is a verb", "d"),
        ("The answer is b. (A) is red", "b"),
        ("The correct option is **(C) 5**", "c"),
        ("(A) is wrong. (B)", "b"),
        ("C, not D", "c"),
        ("Not D", None),
        ("B or C", None),
        ("Answer: A/B", None),
        ("both B and C", None),
        ("vitamin B12", None),
        ("So it must be C", "c"),
        ("Answer: A", "a"),
    ],
)
def test_the_choice_that_a_longer_text_ends_up_with(text: str, letter: str | None) -> None:
    assert last_choice(text) == letter
    assert [one for one in "ABCD" if is_found_in(text, one)] == ([] if letter is None else [letter.upper()])


@cache
def answer_rows() -> tuple[tuple[str, str, bool, bool], ...]:
    """Answers as people write them, marked by hand as a teacher would, before looking at what the code says."""
    lines = (Path(__file__).parent / "answer_rows.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        (answer, group["reference"], group["strict"], group["lenient"])
        for group in map(json.loads, lines)
        for answer in group["answers"]
    )


def disagreements(read: Callable[[str, str], bool], *, strict: bool) -> list[str]:
    """The rows of the table of which a way of reading answers says something else."""
    return [
        f"{answer!r} for {reference!r} should be {wanted}"
        for answer, reference, is_right, is_found in answer_rows()
        if read(answer, reference) is not (wanted := is_right if strict else is_found)
    ]


def test_the_table_is_marked_as_a_teacher_would() -> None:
    assert len(answer_rows()) > 800
    assert disagreements(same_answer, strict=True) == []
    assert disagreements(is_found_in, strict=False) == []


def in_tags(answer: str) -> str:
    return f"<reasoning>2 + 3</reasoning><answer>{answer}</answer>"


def test_rewards_accuracy_and_benchmarks_mark_the_table_alike() -> None:
    def reward(answer: str, reference: str) -> bool:
        return exact_answer([in_tags(answer)], [reference]) == [1.0]

    def benchmark(answer: str, reference: str) -> bool:
        return gsm8k({"answer": f"2 + 3\n#### {reference}"}, [in_tags(answer)])["strict"] == 1.0

    assert disagreements(reward, strict=True) == []
    assert (
        disagreements(lambda message, wanted: bool(strict_match(in_tags(message), wanted, "system2")), strict=True)
        == []
    )
    assert disagreements(lambda message, wanted: bool(strict_match(message, wanted, "system1")), strict=True) == []
    assert disagreements(benchmark, strict=True) == []
    assert disagreements(lambda message, wanted: bool(lenient_match(message, wanted)), strict=False) == []
    assert (
        disagreements(lambda message, wanted: gsm8k({"answer": wanted}, [message])["lenient"] == 1.0, strict=False)
        == []
    )


def test_every_right_answer_for_a_whole_number_is_one_for_the_reward_too() -> None:
    whole = [(message, wanted) for message, wanted, is_right, _ in answer_rows() if is_right and is_whole(wanted)]
    assert len(whole) > 200
    assert [message for message, wanted in whole if integer_answer([in_tags(message)], [wanted]) != [1.0]] == []


def is_whole(text: str) -> bool:
    number = as_number(text)
    return number is not None and number.denominator == 1
