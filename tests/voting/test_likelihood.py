"""Batched, padded and cached log-probabilities are those of one plain forward pass a row."""

from __future__ import annotations

import pytest
import torch

from lorapar.voting.reader import Choice
from lorapar.voting.transformers_teacher import ChoiceScorer


def ids(tokenizer, text):
    return tuple(tokenizer(text)["input_ids"])


def plain_log_prob(model, prompt, word):
    """One row, one forward pass over everything, no cache, no padding."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + word])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + offset, token]) for offset, token in enumerate(word))


def choices(tokenizer, prefix, words):
    questions = ["a", "a much longer question, so that rows differ in length", "{braces}", "Zürich?"]
    system1, system2 = (ids(tokenizer, word) for word in words)
    return [
        Choice(ids(tokenizer, prefix + question), {"system1": system1, "system2": system2}) for question in questions
    ]


@pytest.mark.parametrize(
    "words",
    [("a", "b"), ("System1", "System2"), ("fact", "math"), ("now", "a long word"), ("fact", "fable")],
    ids=["one token each", "last token differs", "first token differs", "unequal lengths", "shared beginning"],
)
@pytest.mark.parametrize("cached", [True, False], ids=["cached prefix", "no cache"])
def test_batched_and_cached_equals_one_plain_forward_pass_a_row(model, tokenizer, words, cached) -> None:
    prefix = "An instruction that every prompt begins with.\n\n"
    rows = choices(tokenizer, prefix, words)
    begin = rows[0].prompt[: len(prefix)] if cached else ()

    found = ChoiceScorer(model, begin).log_probs(rows)

    for row, log_probs in zip(rows, found, strict=True):
        assert list(log_probs) == ["system1", "system2"]
        for system, word in row.words.items():
            assert log_probs[system] == pytest.approx(plain_log_prob(model, row.prompt, word), abs=1e-4)


def test_a_prompt_that_begins_otherwise_is_computed_whole(model, tokenizer) -> None:
    rows = choices(tokenizer, "The common beginning. ", ("fact", "math"))
    odd = choices(tokenizer, "Something else entirely. ", ("fact", "math"))[1]
    mixed = [rows[0], odd, rows[2]]

    found = ChoiceScorer(model, rows[0].prompt[:20]).log_probs(mixed)

    for row, log_probs in zip(mixed, found, strict=True):
        for system, word in row.words.items():
            assert log_probs[system] == pytest.approx(plain_log_prob(model, row.prompt, word), abs=1e-4)


def test_the_prefix_is_run_once_and_words_that_differ_at_their_end_share_a_sequence(
    model, tokenizer, monkeypatch
) -> None:
    rows = choices(tokenizer, "An instruction that every prompt begins with. ", ("System1", "System2"))
    seen = []
    forward = model.forward

    def counting(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    scorer = ChoiceScorer(model, rows[0].prompt[:30])
    monkeypatch.setattr(model, "forward", counting)
    scorer.log_probs(rows)

    longest = max(len(row.prompt) for row in rows) - 30 + len("System")
    assert seen == [(len(rows), longest)]
