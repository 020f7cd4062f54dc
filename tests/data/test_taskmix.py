"""The task mix: right answers, nothing known by heart, the same rows for the same seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.data.taskmix import ENDINGS, generate_task_mix

SIZES = {"system1_train": 40, "system1_heldout": 20, "system2_train": 60, "system2_heldout": 40}
seeds = st.integers(0, 10_000)


def of(rows, system, split=None):
    return [row for row in rows if row["system"] == system and split in (None, row["split"])]


def sums(rows):
    return {row["answer"].split("<answer>")[0] for row in rows}


def stem(row):
    """The part of an invented word before the ending that names its class."""
    return re.search(r"(\w{3})-\w+", row["question"])[1]


def reckoned(question: str) -> int:
    """The story's result, reckoned from its words alone."""
    total = 0
    for word, number in re.findall(r"(has|finds|gets|gives away|loses) (\d+)", question):
        total += -int(number) if word in ("gives away", "loses") else int(number)
    return total


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_every_story_has_the_right_steps_and_answer(seed):
    for row in of(generate_task_mix(**SIZES, seed=seed), "system2"):
        assert int(row["reference"]) == reckoned(row["question"]) > 0
        assert row["answer"].endswith(f"<answer>{row['reference']}</answer>")
        for left, result in re.findall(r"(\d+[+-]\d+)=(\d+)", row["answer"]):
            first, sign, second = re.match(r"(\d+)([+-])(\d+)", left).groups()
            assert int(first) + (int(second) if sign == "+" else -int(second)) == int(result)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_words_ending_names_its_class(seed):
    for row in of(generate_task_mix(**SIZES, seed=seed), "system1"):
        assert f"-{ENDINGS[row['reference']]}" in row["question"]
        assert row["answer"] == row["reference"]


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_train_and_heldout_share_neither_stem_nor_sum(seed):
    rows = generate_task_mix(**SIZES, seed=seed)
    stems = {split: {stem(row) for row in of(rows, "system1", split)} for split in ("train", "heldout")}
    assert not stems["train"] & stems["heldout"]
    assert not sums(of(rows, "system2", "train")) & sums(of(rows, "system2", "heldout"))
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_classes_and_steps_are_balanced_in_each_split():
    rows = generate_task_mix(**SIZES, seed=0)
    assert set(Counter(row["reference"] for row in of(rows, "system1")).values()) == {15}
    for split, size in (("train", 60), ("heldout", 40)):
        assert len(of(rows, "system2", split)) == size
        assert sum("," in row["answer"] for row in of(rows, "system2", split)) == size // 4


def test_the_seed_decides_the_rows():
    assert generate_task_mix(**SIZES, seed=1) == generate_task_mix(**SIZES, seed=1)
    assert generate_task_mix(**SIZES, seed=1) != generate_task_mix(**SIZES, seed=2)


@pytest.mark.parametrize("sizes", [{"system1_train": 10**6}, {"system2_heldout": 10**6}])
def test_more_rows_than_there_are_is_an_error(sizes):
    with pytest.raises(ValueError, match=r"only 980 exist|ask for fewer"):
        generate_task_mix(**{**SIZES, **sizes}, seed=0)
