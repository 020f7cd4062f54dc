"""The project's own task mix: a small, seeded data set with one task for each system.

System 1 is immediate recall: an invented word's ending names its class, and no chain of thought
helps. System 2 is arithmetic told as a short story of one or two steps, with an exact answer that
is easier to reach by writing the steps down. Both are small enough for a model of 135M parameters.
"""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import TypeVar

T = TypeVar("T")
Row = dict[str, str]

# One ending for each class; stems carry no meaning, so only the ending can be learned. The hyphen keeps a tokenizer
# from joining stem and ending differently in every word.
ENDINGS = {"animal": "oon", "plant": "ula", "stone": "esk", "tool": "ix"}
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
WORD_QUESTIONS = ("What kind of thing is a {word}?", "Which class does {word} belong to?")

PEOPLE = ("Ann", "Ben", "Eva", "Leo", "Mia", "Sam", "Tom", "Zoe")
THINGS = ("apples", "books", "cards", "coins", "eggs", "keys", "pens", "shells")
# How a pile of things grows or shrinks.
GAINS = ("finds {n} more", "gets {n} more")
LOSSES = ("gives away {n}", "loses {n}")
SMALLEST, LARGEST = 2, 9
# Three of four stories take one step, the fourth takes two.
STEPS = (1, 1, 1, 2)
HELDOUT_SUMS = 3  # every third sum occurs only in held-out stories
TRIES = 100


@dataclass(frozen=True)
class Sum:
    """The arithmetic of a story: the first number, then what is added or taken away."""

    start: int
    changes: tuple[int, ...] = ()

    def totals(self) -> list[int]:
        """The number of things after each change."""
        return list(accumulate(self.changes, initial=self.start))[1:]

    def working(self) -> str:
        """The steps as equations, such as `3+4=7, 7-2=5`."""
        totals = [self.start, *self.totals()]
        steps = zip(totals[:-1], self.changes, totals[1:], strict=True)
        return ", ".join(f"{before}{change:+d}={after}" for before, change, after in steps)


def generate_task_mix(
    *, system1_train: int, system1_heldout: int, system2_train: int, system2_heldout: int, seed: int
) -> list[Row]:
    """Rows of both systems and both splits; the same arguments give the same rows.

    Train and held-out rows share no stem (System 1) and no sum (System 2), so memorising does not help.
    """
    rng = random.Random(seed)
    rows = _split_rows("system1", _word_rows(system1_train + system1_heldout, rng), system1_train)
    rows += _split_rows("system2", _story_rows(system2_train, system2_heldout, rng), system2_train)
    return rows


def _split_rows(system: str, rows: Sequence[Row], train: int) -> list[Row]:
    """Give each row its id, system and split: the first `train` rows are for training."""
    splits = ["train"] * train + ["heldout"] * (len(rows) - train)
    return [
        {"id": f"{system}-{split}-{number:04d}", **row, "system": system, "split": split}
        for number, (row, split) in enumerate(zip(rows, splits, strict=True))
    ]


def _word_rows(count: int, rng: random.Random) -> list[Row]:
    """System 1 rows: as many of each class as `count` allows, every word used once."""
    stems = _draw(_all_stems(), count, rng)
    classes = _balanced(tuple(ENDINGS), count, rng)
    return [
        {
            "question": rng.choice(WORD_QUESTIONS).format(word=f"{stem}-{ENDINGS[name]}"),
            "answer": name,
            "reference": name,
        }
        for stem, name in zip(stems, classes, strict=True)
    ]


def _all_stems() -> list[str]:
    """Every stem of the form consonant, vowel, consonant; each stem is used in one word."""
    return [first + vowel + last for first in CONSONANTS for vowel in VOWELS for last in CONSONANTS]


def _story_rows(train: int, heldout: int, rng: random.Random) -> list[Row]:
    """System 2 rows, the training ones first; a sum may occur in several stories of its split."""
    pools = {steps: _draw(sums := _all_sums(steps), len(sums), rng) for steps in sorted(set(STEPS))}
    kept = {steps: pool[::HELDOUT_SUMS] for steps, pool in pools.items()}
    rest = {steps: [story for place, story in enumerate(pool) if place % HELDOUT_SUMS] for steps, pool in pools.items()}
    return _stories(rest, train, rng) + _stories(kept, heldout, rng)


def _stories(pools: dict[int, list[Sum]], count: int, rng: random.Random) -> list[Row]:
    """`count` different stories; every sum of a pool occurs equally often."""
    turns = {steps: cycle(pool) for steps, pool in pools.items()}
    rows: dict[str, Row] = {}
    for steps in _balanced(STEPS, count, rng):
        row = _new_story(next(turns[steps]), rows, rng)
        rows[row["question"]] = row
    return list(rows.values())


def _new_story(story: Sum, known: Container[str], rng: random.Random) -> Row:
    """A new story of this sum; raises an error where none is found."""
    for _ in range(TRIES):
        row = _story_row(story, rng)
        if row["question"] not in known:
            return row
    raise ValueError(f"no new story of {story.working()} in {TRIES} tries: ask for fewer System 2 rows")


def _all_sums(steps: int) -> list[Sum]:
    """Every sum of `steps` steps whose total stays above 0, in a fixed order."""
    if steps == 0:
        return [Sum(start) for start in range(SMALLEST, LARGEST + 1)]
    numbers = range(SMALLEST, LARGEST + 1)
    longer = (
        Sum(shorter.start, (*shorter.changes, sign * number))
        for shorter in _all_sums(steps - 1)
        for sign in (1, -1)
        for number in numbers
    )
    return [candidate for candidate in longer if candidate.totals()[-1] > 0]


def _story_row(story: Sum, rng: random.Random) -> Row:
    """Write one sum as a story of a random person and random things."""
    person, things = rng.choice(PEOPLE), rng.choice(THINGS)
    events = [rng.choice(GAINS if change > 0 else LOSSES).format(n=abs(change)) for change in story.changes]
    result = str(story.totals()[-1])
    return {
        "question": f"{person} has {story.start} {things}, {', then '.join(events)}. How many {things} now?",
        "answer": f"<reasoning>{story.working()}</reasoning><answer>{result}</answer>",
        "reference": result,
    }


def _draw(population: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """`count` different members; raises an error where there are fewer."""
    if count > len(population):
        raise ValueError(f"asked for {count} different rows, only {len(population)} exist")
    return rng.sample(population, count)


def _balanced(values: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """`count` shuffled values, each equally often (plus or minus one)."""
    result = [values[index % len(values)] for index in range(count)]
    rng.shuffle(result)
    return result
