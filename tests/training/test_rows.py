"""Rows that the settings end training before."""

import pytest

from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig, PromptConfig, RlConfig, SftConfig
from lorapar.prompts import encode_rows, rows_of
from lorapar.records import Example, Turn
from lorapar.training.rows import ChosenRows, drop_unanswered, tokens_read, with_unseen

ROWS = ChosenRows(rows_of([Example(id=str(n), question=f"{n}?", answer="1") for n in range(20)], "system1"))


@pytest.mark.parametrize(
    ("config", "per_step", "line"),
    [
        (
            SftConfig(max_steps=4),
            4.0,
            "4 of 20 rows are not seen: sft.max_steps is 4; raise it to train on all of them",
        ),
        (SftConfig(max_steps=5), 4.0, None),
        (SftConfig(max_steps=99), 4.0, None),
        (SftConfig(epochs=0.25), 4.0, "15 of 20 rows are not seen: sft.epochs is 0.25; raise it"),
        (SftConfig(epochs=1), 4.0, None),
        (RlConfig(max_steps=3), 1.5, "16 of 20 rows are not seen: rl.max_steps is 3; raise it"),
    ],
)
def test_rows_that_training_ends_before_are_counted(config, per_step, line):
    (unseen,) = with_unseen(ROWS, config, per_step).omissions
    assert bool(unseen.count) is (line is not None)
    assert unseen.line.startswith(line or "0 of 20")
    assert unseen.is_much is (unseen.count >= 10 and config.max_steps is None), "who sets max_steps means it"


def test_they_stand_in_the_summary_beside_the_others():
    first = with_unseen(ROWS, SftConfig(max_steps=1), 4.0)
    assert [one["count"] for one in with_unseen(first, SftConfig(max_steps=4), 4.0).summary()["omissions"]] == [16, 4]


@pytest.mark.parametrize("train_on", ["last", "all"])
def test_rows_are_rendered_once_to_choose_and_to_learn_them(monkeypatch, train_on):
    tokenizer, prompts = load_tokenizer(ModelConfig(name="builtin:tiny")), PromptConfig()
    rendered, render = [], tokenizer.apply_chat_template

    def counted(messages, **options):
        rendered.append((str(messages), str(options)))
        return render(messages, **options)

    talk = (Turn(role="user", content="1+1?"), Turn(role="assistant", content="2"))
    rows = [(row.model_copy(update={"history": talk}), system) for row, system in ROWS.rows]
    expected = encode_rows(tokenizer, rows, prompts, 1000, train_on)
    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    chosen = drop_unanswered(ChosenRows(rows), tokenizer, prompts, SftConfig(max_length=1000, train_on=train_on))
    assert chosen.encoded == expected
    wholes = [one for one in rendered if "'assistant', 'content': '1'" in one[0]]
    assert len(wholes) == len(set(wholes)) == len(rows)


def test_tokens_that_are_read_are_those_of_every_step() -> None:
    """Three rows of ten tokens in all, two a step: two steps an epoch, the last one with the row that is left."""
    encoded = [{"input_ids": [1] * size, "labels": [1] * size} for size in (2, 3, 5)]
    chosen = ChosenRows([], encoded=encoded)
    assert [tokens_read(chosen, steps, rows_a_step=2) for steps in (1, 2, 4)] == [5, 10, 20]
