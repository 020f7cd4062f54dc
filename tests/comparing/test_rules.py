"""The setting `answers`: what each rule takes for the same answer, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sympy import Integer, Rational, simplify, sqrt
from sympy.abc import x

from lorapar.comparing import EXACT, AnswerRule, answer_rule
from lorapar.comparing.latex import MathTexts, decided
from lorapar.comparing.math_workers import MathWorkers
from lorapar.comparing.rules import MathRule, normalised

ROWS = Path(__file__).parents[1] / "answer_rows.jsonl"
"""Answers as people write them, with the verdict of `exact`; tests/test_answers_in_texts.py says more."""


@pytest.fixture(scope="module")
def math() -> Iterator[AnswerRule]:
    with answer_rule("math") as rule:
        yield rule


SAME = [
    # What `exact` says is right stays right.
    ("18 dollars", "18"),
    ("$18.00", "18"),
    ("1,234", "1234"),
    ("1.234,50", "1234.5"),
    ("(B)", "B"),
    ("Paris.", "paris"),
    # LaTeX around the same number, unit or letter
    (r"\frac{3}{4}", "0.75"),
    (r"$\dfrac34$", "3/4"),
    (r"2\frac{1}{2}", "5/2"),
    ("2 1/2", r"\frac{5}{2}"),
    (r"\boxed{42}", "42"),
    (r"10{,}000", "10000"),
    (r"1.5\times 10^3", "1500"),
    ("1e3", "10^3"),
    (r"50\%", "50"),
    (r"90^\circ", "90 degrees"),
    (r"5\,\mathrm{cm}", "5 cm"),
    (r"5\text{ cm}", "5"),
    (r"\text{(A)}", "A"),
    ("x = 5", "5"),
    # expressions
    ("x^2+1", "1+x^2"),
    ("(x+1)(x-1)", "x^2-1"),
    (r"\frac{\sqrt{3}}{2}", r"\frac{1}{2}\sqrt{3}"),
    (r"\frac{1}{\sqrt 2}", r"\sqrt2/2"),
    ("sqrt(8)", r"2\sqrt{2}"),
    ("pi/2", r"\frac{\pi}{2}"),
    (r"\log_2 8", "3"),
    ("2^{10}", "1024"),
    ("2(3)", "6"),
    ("10", r"2 \cdot 5"),
    (r"\frac{x}{2}", r"\frac{1}{2}x"),
    ("( 1 , 2 )", "(1,2)"),
    ("2, 1", r"\{1, 2\}"),
    (r"x \in [0,1)", r"\left[0, 1\right)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("x>2", "2<x"),
    (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
    (r"\begin{pmatrix}\frac12&x+1\end{pmatrix}", r"\begin{pmatrix}0.5&1+x\end{pmatrix}"),
    # characters for commands
    ("\u221a12", r"2\sqrt{3}"),
    ("3\u221a2/2", r"\frac{3\sqrt2}{2}"),
    ("x\u207b\u00b9 + x\u00b2", r"\frac{1}{x} + x^2"),
    ("(-\u221e, 5)", r"(-\infty,5)"),
    ("[1,2] \u222a [3,4]", r"[1,2]\cup[3,4]"),
    ("1 \u00b1 \u221a2", r"1\pm\sqrt2"),
    ("\u221a12.25", "3.5"),
    ("\\begin{pmatrix}\u221a(2)x\\\\1\\end{pmatrix}", r"\begin{pmatrix}x\sqrt{2}\\1\end{pmatrix}"),
    (r"[1,2]\cup[2,4]", "[1,4]"),
    (r"\int^1_0 x dx", r"\int_0^1 x dx"),
    # variables behind a number are no unit
    ("4x^2y", "4yx^2"),
    ("4x^2 y", "4x^2y"),
    ("12xy", r"12\,xy"),
    ("6ab", "6 ab"),
    (r"\frac{ab}{2}", r"\frac{1}{2} ab"),
    ("3ab^2", "3b^2a"),
    ("3s-2", "-2+3s"),
    ("3x - 2", "3x-2"),
    ("12 pi", r"12\pi"),
    ("6s^2", r"s^2 \cdot 6"),
    ("2t", "t+t"),
    (r"2/3 x", r"\frac{2x}{3}"),
    ("(2)(3)", "6"),
    # two numbers without a blank are a list, and lists have no order
    ("2,1", "1,2"),
    ("1 and 2", "1,2"),
    ("x=1, x=2", "1,2"),
    (r"7 \text{ or } 8", "7,8"),
    (r"\pm 1", "-1,1"),
    ("-2,3", "3, -2"),
    ("2 or 3", "2, 3"),
    ("x = 2, 3", "2,3"),
    # inequalities for intervals, repeating decimals
    (r"x \le 2", r"(-\infty,2]"),
    ("1 < x < 2", "(1,2)"),
    ("2 < x", r"(2,\infty)"),
    ("[-2, 7]", r"-2 \le x \le 7"),
    (r"0.1\overline{6}", r"\frac16"),
    # blanks and braces of LaTeX, and a unit behind an expression
    ("4210_5", "4210_{5}"),
    (r"\langle 1,2\rangle", r"\langle 1, 2 \rangle"),
    (r"10\sqrt{3}\text{ cm}", r"10\sqrt{3}"),
    (r"25\pi \text{ square units}", r"25\pi"),
    ("36\u03c0 cm\u00b2", r"36\pi \text{ square centimeters}"),
    (r"25\pi\text{ cm}^2", r"25\pi"),
    ("x+y=5", "5"),
    (r"\sin x = \frac12", r"\frac{1}{2}"),
]
DIFFERENT = [
    # what math-verify by itself was seen to take for the same
    ("50%", "0.5"),
    (r"50\%", r"\frac{1}{2}"),
    ("2 1/2", "1"),
    ("1e3", "1"),
    ("3:30", "3"),
    ("2 or 3", "3"),
    ("18 apples and 20 pears", "20"),
    ("18 apples and 20 pears", r"2 \cdot 10"),
    ("lube", "blue"),
    ("True", "False"),
    (r"5\text{ cm}", r"5\text{ m}"),
    (r"\$18", "\u20ac18"),
    ("(1, 2)", r"\{1, 2\}"),
    ("2(3)", "5"),
    ("1/3", "0.333333"),
    (r"\frac{1}{3}", "0.3333"),
    (r"\frac{\sqrt{2}}{2}", "0.7071068"),
    # and the rest
    ("(1,2)", "(2,1)"),
    ("[0,1)", "(0,1]"),
    ("x>2", "x<2"),
    ("y = 5", "x = 5"),
    ("-2", "2"),
    ("18 million", "18"),
    (r"\textbf{(B)}", "A"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
    (r"\frac{a}{b", r"\frac{a}{b}"),
    ("x^2", "x2"),
    ("1011_2", "1011"),
    ("\u221a2", "2"),
    ("[[x], 2]", "[x, 2]"),
    (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("[1,2]\u222a[5,6]", "[1,6]"),
    ("", "5"),
    ("", "x"),
    ("3", "3x-2"),
    ("4ac", "4"),
    ("2,3", "1,2"),
    ("1", "1,2"),
    ("1,2,3", "1,2"),
    ("1 < x < 2", "[1,2]"),
    ("1 < x < 2", "(1,3)"),
    ("x > 2", r"(-\infty,2)"),
    ("2516_8", "2516_7"),
    (r"10\sqrt3\text{ cm}", r"10\sqrt3\text{ m}"),
    (r"10\sqrt3\text{ cm}", "10"),
    (r"\sqrt3 m", r"\sqrt3"),
    # an equation that is not solved
    ("2x = 5", "5"),
    ("x^2 = 5", "5"),
    ("x = 5", "x^2 = 5"),
    (r"\frac{x}{2} = 5", "5"),
    (r"\sqrt{x} = 5", "5"),
    ("12", r"12\,xy"),
    ("8", "8 pq"),
    ("12 xy", "12"),
    (r"\frac{1}{2}x = 5", "5"),
    # only between values do `or` and `and` make a list
    ("A or B", "A and B"),
    ("p or q", "p and q"),
    ("cats or dogs", "cats and dogs"),
    ("5cats", "5tacs"),
]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("AB^2 = 52", "52"),
        ("r^2 = 25", "25"),
        ("2i^2 = -8", "-8"),
        (r"\omega^3 = 1", "1"),
        (r"4\pi = 12.57", "12.57"),
        (r"x = \pm\sqrt{5}", "x^2=5"),
    ],
)
def test_the_right_side_of_an_equation_counts_where_it_is_what_is_asked_for(
    math: AnswerRule, answer: str, reference: str
) -> None:
    assert math.is_answer(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_math_takes_these_for_the_same_in_both_directions(math: AnswerRule, answer: str, reference: str) -> None:
    assert math.is_answer(answer, reference)
    assert math.is_answer(reference, answer)


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_math_tells_these_apart_in_both_directions(math: AnswerRule, answer: str, reference: str) -> None:
    assert not math.is_answer(answer, reference)
    assert not math.is_answer(reference, answer)


def test_a_reference_of_two_numbers_without_a_blank_is_never_a_decimal_of_math(math: AnswerRule) -> None:
    assert EXACT.is_answer("1.2", "1,2"), "as before"
    assert not math.is_answer("1.2", "1,2")
    assert not math.is_found_in(r"so \boxed{1.2}", "$1,2$")
    assert math.is_found_in(r"so \boxed{2, 1}", "1,2")
    assert math.is_answer("7,5", "7.5")


def test_math_agrees_with_sympy_on_expressions_made_by_it(math: AnswerRule) -> None:
    """An independent check: sympy writes the LaTeX, and knows whether two expressions are equal."""
    from sympy import latex

    made = [Rational(7, 3), sqrt(12), 2 * sqrt(3), x**2 - 1, (x - 1) * (x + 1), x / 3, Integer(12), Rational(14, 6)]
    for left in made:
        for right in made:
            equal = simplify(left - right) == 0
            assert math.is_answer(f"${latex(left)}$", latex(right)) is equal, (left, right)


def test_several_answers_at_once_and_several_references(math: AnswerRule) -> None:
    pairs = [(r"\sqrt{4}", ("3", "2")), (r"\sqrt{4}", "3"), ("2+2", "4"), ("four", ("4", "Four"))]
    assert math.are_answers(pairs) == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "reference", "found"),
    [
        (r"We get $x^2$, so the answer is \boxed{\frac{1}{\sqrt{2}}}. Done.", r"\frac{\sqrt{2}}{2}", True),
        (r"First $1+1$, then $x+x$.", "2x", True),
        (r"The last one counts: \boxed{3}, no, \boxed{4 + x}", "3 + x", False),
        (r"<reasoning>so</reasoning><answer>\frac{2}{4}</answer>", "1/2", True),
        ("It costs 18 dollars, thus 18", "18", True),
    ],
)
def test_math_finds_the_last_formula_in_a_text(math: AnswerRule, text: str, reference: str, found: bool) -> None:
    assert math.is_found_in(text, reference) is found


@pytest.mark.parametrize(
    "answer", [r"\sqrt{3}" + " cm^2" * 1200, "1" * 5000 + r".\overline{3}"], ids=["units", "digits"]
)
def test_an_answer_that_never_stops_is_wrong_and_ends_nothing(math: AnswerRule, answer: str) -> None:
    assert not math.is_answer(answer, "5")
    assert not math.is_found_in(answer, "5")


def test_what_exact_decides_never_reaches_another_process() -> None:
    for answer, reference in [("50%", "0.5"), ("2 1/2", "1"), ("3:30", "3"), ("blue", "red"), ("2 or 3", "3")]:
        assert decided(answer, reference) is False
    assert isinstance(decided("x+1", "1+x"), MathTexts)


HUGE = MathTexts("9^{9^{9^{9}}}", "2")


def test_a_comparison_without_an_end_counts_as_not_equal_and_the_next_ones_go_on() -> None:
    with MathWorkers(workers=1, cpu_seconds=1.0) as workers:
        assert workers.equal([HUGE, MathTexts("x+1", "1+x"), HUGE]) == [False, True, False]
        assert (workers.asked, workers.undecided) == (2, 1)
        message = MathRule(workers).undecided()
    assert message.line.startswith("1 of 2 comparisons of answers count as not equal: ")
    assert "9^{9^{9^{9}}}" in message.line


def test_a_worker_that_was_killed_or_stopped_is_replaced() -> None:
    import os
    import signal

    with MathWorkers(workers=1, wall_seconds=5.0) as workers:
        assert workers.equal([MathTexts("x+1", "1+x")]) == [True]
        (worker,) = workers._all
        first = worker._process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert workers.equal([MathTexts("x+2", "2+x")]) == [True]
        second = worker._process
        assert second is not None
        assert second.pid != first.pid
        os.kill(second.pid, signal.SIGSTOP)  # hangs without using CPU time
        assert workers.equal([MathTexts("x+3", "3+x")]) == [False]
        assert workers.undecided == 1
    assert second.poll() is not None, "no worker outlives the block"


def test_text_compares_normalised_text_and_nothing_else() -> None:
    with answer_rule("text") as text:
        assert text.is_answer(" The  \u201cRed\u201d Fox! ", 'the "red" fox')
        assert text.is_answer("\uff11\uff18", "18")  # full-width digits are compatibility forms
        assert not text.is_answer("1,000", "1000")
        assert not text.is_answer("(B)", "B")
        assert text.is_found_in("I think it is the red fox, really.", "The Red Fox")
        assert not text.is_found_in("the redfox", "red")
        assert not text.is_found_in("anything", "...")
    assert normalised("**Paris**.") == "paris"


def test_exact_is_the_default_and_is_what_it_was() -> None:
    with answer_rule("exact") as rule:
        assert rule is EXACT
    assert not EXACT.is_answer(r"\sqrt{4}", "2")
    assert EXACT.undecided().count == 0


def test_math_marks_plain_answers_as_exact_does(math: AnswerRule) -> None:
    groups = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    rows = [(answer, group) for group in groups for answer in group["answers"]]
    message = math.are_answers([(answer, group["reference"]) for answer, group in rows])
    assert [
        f"{answer!r} for {group['reference']!r}"
        for (answer, group), is_right in zip(rows, message, strict=True)
        if is_right is not group["strict"]
    ] == []
