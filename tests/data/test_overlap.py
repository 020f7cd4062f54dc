"""Training rows whose question stands in what is evaluated: 13 words in a row, or a whole short question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.data.overlap import NGRAM, overlaps, question_text
from lorapar.records import Example, Turn

BOUGHT = (
    "Maya bought seven crates of ripe mangoes at the harbour market on Friday and then sold four of them to her uncle "
    "for twelve coins each. How many crates are left?"
)


def row(question, name="r", **more):
    return Example(id=name, question=question, answer="3", **more)


def found(rows, **evaluated):
    asked = {measure: [(f"{measure}{n}", text) for n, text in enumerate(texts)] for measure, texts in evaluated.items()}
    return overlaps(rows, asked)


@pytest.mark.parametrize(
    ("question", "is_found"),
    [
        (BOUGHT, True),
        (BOUGHT.upper().replace(",", ";").replace(" ", "  "), True),
        ("Note this. " + " ".join(BOUGHT.split()[3 : 3 + NGRAM]) + ", or so he said.", True),
        ("Note this. " + " ".join(BOUGHT.split()[3 : 2 + NGRAM]) + " - or so he said.", False),
        ("How many crates are left?", False),
    ],
)
def test_thirteen_words_in_a_row_are_a_sign_whatever_stands_between_them(question, is_found):
    overlap = found([row(question)], gsm8k=["Something else entirely?", BOUGHT])
    assert [(one.example_id, one.measure, one.row) for one in overlap] == (
        [("r", "gsm8k", "gsm8k1")] if is_found else []
    )


def test_shorter_questions_count_where_they_are_equal():
    overlap = found([row("what is 2 + 2"), row("What is 2 + 2, Ann?", "other")], mmlu=["What is 2+2?"])
    assert [(one.example_id, one.words) for one in overlap] == [("r", "what is 2 + 2")]
    assert overlap[0].line == "row r shares 'what is 2 + 2' with mmlu, row mmlu0"


def test_what_many_rows_share_is_an_instruction_and_no_sign():
    heading = "Read the following report with care and name the one class that fits it best of all:"
    rows = [row(f"{heading} report {number}", str(number)) for number in range(40)]
    assert found(rows, heldout=[f"{heading} report 99"]) == []
    assert [one.example_id for one in found(rows, heldout=[f"{heading} report 7"])] == ["7"], "a whole question counts"


@pytest.mark.parametrize(
    ("question", "other", "is_found"),
    [
        ("What is 2-2?", "What is 2+2?", False),
        ("what is 2 \u2212 2", "What is 2-2?", True),
        ("What is 2\u00d73?", r"What is $2 \times 3$?", True),
        ("What is 2*3?", "What is 2/3?", False),
        ("What is 2.5?", "What is 25?", False),
        ("What is 2.5?", "What is 2 5?", False),
        ("What is -5 squared?", "What is 5 squared?", False),
        ("Solve $x^2 + 5x - 6 = 0$.", "Solve $x^2 - 5x + 6 = 0$.", False),
        ("Solve x^2+5x-6=0", "Solve $x^2 + 5x - 6 = 0$.", True),
        ("Is 3 < 4?", "Is 3 > 4?", False),
        ("What is 20% of 5?", "What is 20 of 5?", False),
        ("What is 5!?", "What is 5?", False),
        # marks that calculate nothing
        ("A well-known cat - and/or a dog", "A well known cat and or a dog", True),
        ("**Which** planet is - largest?", "Which planet is largest", True),
        ("<b>Which planet</b> is largest", "b Which planet b is largest", True),
        ("What is 2 + 2 =", "What is 2 + 2?", True),
        ("What is **5** squared?", "What is 5 squared?", True),
        ("What is **5** + **6**?", "What is 5 + 6?", True),
        ("What is 2**3?", "What is $2^3$?", True),
        ("What is 2 ** 3?", "What is 2 * 3?", False),
        (r"What is 20\% of 5?", "What is 20% of 5?", True),
        (r"What is 20 \% of 5?", "What is 20 % of 5?", True),
        ("Which day was 2020-01-05?", "Which day was 2020/01/05?", True),
        ("Which day was 05.01.2020?", "Which day was 05/01/2020?", True),
        ("Who has 555-1234?", "Who has 555 1234?", True),
        ("Who ruled in 1990-2000?", "Who ruled in 1990\u20132000?", True),
        ("What is 1000-200?", "What is 1000 - 200?", True),
        ("What is 1000-200?", "What is 1000+200?", False),
        ("Is it for ages 5-7?", "Is it for ages 5\u20137?", True),
        ("What is 3 - 2?", "What is 3 \u2014 2?", True),
        ("Solve for x: 2x + 3 = 7", "Solve for x: 2x - 3 = 7", False),
        ("Solve for x: 2x+3=7", "Solve for $x$: $2x + 3 = 7$.", True),
        (r"Simplify $\frac{3}{4}+1$", r"Simplify $\dfrac{3}{4} + 1$", True),
        ("How much is $1,000?", "How much is $1000?", True),
        ("\uff37\uff48\uff41\uff54 \uff49\uff53 \uff12\uff0b\uff12\uff1f", "What is 2+2?", True),
        ("Cafe\u0301 where?", "Caf\u00e9 where?", True),
        ("Is it +5 degrees?", "Is it 5 degrees?", True),
        ("Add:\n- 5\n- 6", "Add: 5 6", True),
        ("Add 5\n- 6", "Add 5\n* 6", True),
    ],
)
def test_signs_between_numbers_tell_questions_apart_and_other_marks_do_not(question, other, is_found):
    assert bool(found([row(question)], heldout=[other])) is is_found


def test_a_whole_question_in_many_rows_is_a_leak_with_whatever_is_around_it():
    starts = ["Now", "So", "Well", "Please", "Hey", "Listen", "Look", "Right", "Okay", "Yes", "Good", "Hello"]
    leaks = [row(f"{word} {BOUGHT} Thanks.", word) for word in starts]
    others = [row(f"Something else entirely, number {n}", str(n)) for n in range(500)]
    assert {one.example_id for one in found([*leaks, *others], gsm8k=[BOUGHT])} == set(starts)
    assert {one.example_id for one in found([*leaks[:3], others[0]], gsm8k=[BOUGHT])} == set(starts[:3])
    assert found([row(f"{one.question.split(' crates')[0]} boxes", one.id) for one in leaks], gsm8k=[BOUGHT]) == []


INSTRUCTION = "Read the following passage carefully and then answer the question that is asked below it with yes or no."


@pytest.mark.parametrize(
    ("count", "others", "texts", "leaks"),
    [
        (200, 0, [INSTRUCTION], 0),  # most rows hold it
        (30, 300, [INSTRUCTION, "Something else entirely?", INSTRUCTION], 0),  # several evaluated rows ask it
        (30, 300, [INSTRUCTION], 30),
        (12, 0, [f"{INSTRUCTION} Passage number 3 is about ants."], 1),
    ],
)
def test_an_instruction_that_an_evaluated_row_has_alone_is_no_leak(count, others, texts, leaks):
    rows = [row(f"{INSTRUCTION} Passage number {n} is about ants.", str(n)) for n in range(count)]
    rows += [row(f"Why {n}?", f"other {n}") for n in range(others)]
    assert len(found(rows, found=texts)) == leaks


def test_only_what_the_user_says_is_a_question():
    talk = row("Why?", history=(Turn(role="user", content="Hello"), Turn(role="assistant", content=BOUGHT)))
    assert question_text(talk) == "Hello Why?"
    assert found([talk, row("x", "s", system_message=BOUGHT)], gsm8k=[BOUGHT]) == []
    asked_before = row("Why?", history=(Turn(role="user", content=BOUGHT), Turn(role="assistant", content="3")))
    assert len(found([asked_before], gsm8k=[BOUGHT])) == 1


def test_signs_of_chinese_and_japanese_are_words():
    question = "玛雅在星期五的港口市场上买了七箱成熟的芒果"
    assert found([row(f"请问{question[2:18]}吗?")], cmmlu=[question])
    assert not found([row(f"请问{question[2:12]}吗?")], cmmlu=[question])


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=NGRAM, max_size=30), st.integers(0, 30), st.text("xyz ", max_size=9)
)
def test_any_thirteen_words_of_a_question_are_found_again(words, start, around):
    start = min(start, len(words) - NGRAM)
    inside = " ".join(words[start : start + NGRAM])
    assert found([row(f"{around} {inside} {around}")], heldout=[" ".join(words)])
