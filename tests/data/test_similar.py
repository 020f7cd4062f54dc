"""Questions that are alike: near duplicates and clusters, without one hiding behind the other's numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.data.similar import SimilarTexts, _jaccard, _pieces


def placed(texts: list[str], duplicate: float = 0.9, cluster: float = 0.5) -> list[tuple[int | None, int]]:
    """Where each text belongs, once those before it that are no duplicates are kept."""
    similar, found = SimilarTexts(duplicate, cluster), []
    for text in texts:
        place = similar.place(text)
        found.append((place.duplicate_of, place.cluster))
        if place.duplicate_of is None:
            similar.keep(text, place.cluster)
    return found


def test_slips_of_the_pen_are_one_question_and_other_questions_are_not() -> None:
    question = "How do I return a pair of shoes that I bought in your shop in Hamburg last week, please?"
    assert placed([question, question.replace("please?", "please!"), "Where is my parcel?"]) == [
        (None, 0),
        (0, 0),
        (None, 1),
    ]


def test_capitals_and_white_space_do_not_count() -> None:
    assert placed(["Where is my parcel?", "  where is\nMY parcel?"])[1] == (0, 0)


def test_questions_whose_numbers_differ_are_of_one_cluster_but_not_one() -> None:
    texts = [
        f"A farmer has {number} apples and gives half of them to his neighbour. How many are left?"
        for number in (8, 12)
    ]
    assert placed(texts) == [(None, 0), (None, 0)]


def test_a_cluster_is_what_is_like_its_first_text_and_no_chain() -> None:
    """Each is like the one before it, and the last shares nothing with the first."""
    words = [letter * 6 for letter in "abcdefghijklmnopqrs"]
    texts = [" ".join(words[start : start + 8]) for start in range(0, 12, 2)]
    clusters = [cluster for _, cluster in placed(texts)]
    assert len(set(clusters)) > 1
    for text, cluster in zip(texts, clusters, strict=True):
        assert _jaccard(_pieces(text), _pieces(texts[cluster])) >= 0.5


@pytest.mark.parametrize("text", ["", "a", "你好吗", "🙂", "\ud800", "x" * 20_000])
def test_any_text_has_a_place_and_is_its_own_duplicate(text: str) -> None:
    assert placed([text, text]) == [(None, 0), (0, 0)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab 12", min_size=5, max_size=14), min_size=2, max_size=12))
def test_no_two_kept_texts_are_nearly_the_same(texts: list[str]) -> None:
    """As a comparison of all with all says it: at this similarity the bands miss one pair in 10^14."""
    kept = [text for text, (same, _) in zip(texts, placed(texts), strict=True) if same is None]
    for place, text in enumerate(kept):
        for other in kept[:place]:
            alike = _jaccard(_pieces(text), _pieces(other)) >= 0.9
            assert not alike or sorted(re.findall(r"\d+", text)) != sorted(re.findall(r"\d+", other))


def test_signatures_find_nearly_all_pairs_above_the_cluster_s_similarity() -> None:
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    missed = pairs = 0
    for _ in range(60):
        base = "".join(generator.choice(letters, 120))
        cut = int(generator.integers(10, 40))
        other = base[:-cut] + "".join(generator.choice(letters, cut))
        if _jaccard(_pieces(base), _pieces(other)) >= 0.55:
            pairs += 1
            missed += placed([base, other])[1][1] != 0
    assert pairs > 20
    assert missed <= 0.2 * pairs
