"""The transformers backend: its votes are what one reads off a plain forward pass over the rendered prompt."""

from __future__ import annotations

import math

import pytest
import torch

from lorapar.config import ModelConfig, TeacherConfig, TeacherTemplate
from lorapar.errors import BadInputError
from lorapar.imports import BASE_LIBRARIES
from lorapar.progress import Silent
from lorapar.records import Example
from lorapar.voting import backends
from lorapar.voting.teacher import render, template_digest
from lorapar.voting.transformers_teacher import TransformersTeacher

FEW_SHOT = [
    {"question": "Capital of France?", "answer": "Paris", "system": "system1"},
    {"question": "3+4-2?", "answer": "5", "system": "system2"},
]
WORDS = {"system1": "fact", "system2": "maths"}
PLAIN = TeacherTemplate(style="plain", label_words=WORDS, few_shot=FEW_SHOT)
ROWS = [
    Example(id=f"r{number}", question="why {so} " * number + "?", answer=text)
    for number, text in enumerate(["a", "{b}", "Zürich", "4", "five", "6 7", "\n8"])
]


def teacher(model, tokenizer, template=PLAIN, **settings) -> TransformersTeacher:
    config = TeacherConfig(name="t", dtype="float32", template=template, **{"batch_size": 3, **settings})
    return TransformersTeacher(config, model, tokenizer, target="Tiny", role_play=True)


def read_off(model, tokenizer, template, example) -> dict[str, float]:
    """Straight from the template: tokenise the whole text, one forward pass, add up the word's log-probabilities."""
    prompt = render(template, example, "Tiny", role_play=True)
    text = prompt.text or tokenizer.apply_chat_template(
        list(prompt.messages or ()), tokenize=False, add_generation_prompt=True
    )
    found = {}
    for system, word in prompt.continuations.items():
        ids = tokenizer(text + word, add_special_tokens=False, return_tensors="pt")["input_ids"]
        length = len(word.encode())  # one token a byte
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].log_softmax(-1)
        found[system] = float(log_probs.gather(1, ids[0, 1:, None])[-length:].sum())
    return found


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_votes_equal_a_plain_forward_pass_a_row(model, tokenizer, style) -> None:
    template = PLAIN.model_copy(update={"style": style})
    votes = {vote.example_id: vote for vote in teacher(model, tokenizer, template, weight=2.0).votes(ROWS)}
    assert set(votes) == {row.id for row in ROWS}
    for row in ROWS:
        vote, expected = votes[row.id], read_off(model, tokenizer, template, row)
        assert vote.log_probs == pytest.approx(expected, abs=1e-4)
        assert vote.label == max(expected, key=expected.__getitem__)
        odds = math.exp(expected["system1"] - expected["system2"])
        likely = odds / (1 + odds)
        assert vote.confidence == pytest.approx(max(likely, 1 - likely), abs=1e-4)
        assert vote.raw == WORDS[vote.label]
        assert (vote.teacher, vote.weight) == ("t", 2.0)
        assert vote.template == template_digest(template, "Tiny", True)


def test_most_of_the_prompt_is_computed_once_and_not_again_for_each_row(model, tokenizer, monkeypatch) -> None:
    asked = teacher(model, tokenizer)
    read = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **options: read.append(options["input_ids"].shape[1]) or forward(**options)
    )
    votes = list(asked.votes(ROWS[:3]))
    assert len(read) == 1
    assert read[0] < min(vote.tokens for vote in votes) / 3


def test_tokens_are_those_of_the_prompt_and_the_word(model, tokenizer) -> None:
    (vote,) = teacher(model, tokenizer).votes(ROWS[:1])
    text = render(PLAIN, ROWS[0], "Tiny", role_play=True).text
    assert vote.tokens == len(tokenizer(f"{text} {vote.raw}")["input_ids"])


def test_votes_come_one_after_another(model, tokenizer) -> None:
    votes = teacher(model, tokenizer, batch_size=1).votes(ROWS)
    assert next(votes).example_id in {row.id for row in ROWS}
    assert len(list(votes)) == len(ROWS) - 1


@pytest.mark.parametrize("kept", range(len(ROWS)))
def test_votes_after_a_stop_are_those_of_a_call_that_was_never_stopped(model, tokenizer, kept) -> None:
    whole = list(teacher(model, tokenizer).votes(ROWS))
    before = whole[:kept]
    after = list(teacher(model, tokenizer).votes(ROWS, {vote.example_id for vote in before}))
    assert before + after == whole


def test_a_row_longer_than_the_model_reads_is_named(model, tokenizer) -> None:
    long = Example(id="long", question="x" * 5000, answer="a")
    with pytest.raises(BadInputError, match=r"teacher 't': row long has \d+ tokens .* its model reads 4096; shorten"):
        list(teacher(model, tokenizer).votes([*ROWS, long]))


def test_damaged_weights_are_an_error_that_names_the_teacher(tiny, tokenizer) -> None:
    from lorapar.basemodel import load_model

    broken = load_model(tiny)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(BadInputError, match=r"teacher 't': the log-probabilities of row r\d are not finite"):
        list(teacher(broken, tokenizer).votes(ROWS))


def test_what_a_model_needs_is_imported_in_one_go_before_it_is_loaded(monkeypatch):
    """As by all stages with a model: torch bit by bit, with a search for garbage, takes a second more."""
    order = []
    monkeypatch.setattr(backends, "import_at_once", lambda *modules: order.append(modules))
    monkeypatch.setattr(backends, "load_model", lambda *_: order.append("model"))
    monkeypatch.setattr(backends, "load_tokenizer", lambda *_: order.append("tokenizer"))
    opened = backends.Backends(ModelConfig(name="builtin:tiny"), role_play=True, progress=Silent())
    with pytest.raises(AssertionError, match="no model is loaded"):
        opened.open(TeacherConfig(name="t"))
    assert order == [BASE_LIBRARIES, "model", "tokenizer"]
    assert "peft" not in BASE_LIBRARIES, "half a second, which no teacher needs"
