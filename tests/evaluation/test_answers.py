"""Asking a model held-out rows: prompts by system, losses of right answers, verdicts; adapters put on and taken off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lorapar.adapter import AdapterSettings, attach, base_digest, save_adapter
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import EvaluateConfig, ModelConfig, PromptConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.evaluation import Answerer, Asking, TransformersEngine, TransformersModel, plan_batches, with_adapter
from lorapar.evaluation.answers import is_cut_off
from lorapar.prompts import IGNORED, render
from lorapar.records import Example

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
PROMPTS = PromptConfig(system2="Think.")
ROWS = [
    (Example(id="w", question="What is a bix?", answer="tool", reference="tool"), "system1"),
    (Example(id="s", question="1+2?", answer="<reasoning>1+2=3</reasoning><answer>3</answer>"), "system2"),
    (Example(id="t", question="Why?", answer="x", reference="x"), "system2"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


@pytest.fixture
def asking(tokenizer) -> Asking:
    return Asking(tokenizer, PROMPTS, EvaluateConfig(max_new_tokens=4))


def answerer(name, model, asking) -> Answerer:
    return Answerer(name, TransformersModel(model, asking.tokenizer), asking)


def test_an_answer_without_an_end_is_cut_off_however_short_it_is(tokenizer) -> None:
    """vLLM ends an answer at `max_model_len` before it has as many tokens as were asked for."""
    whole = tokenizer("tool<|im_end|>")["input_ids"]
    assert [is_cut_off(tokenizer, tokens) for tokens in (whole, whole[:-1], whole[:1], [])] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("family", ["gpt2", "opt", "openai-gpt", "gptj", "ctrl"])
def test_a_table_of_positions_shortens_answers_and_refuses_rows_beyond_it(make_family, tokenizer, family) -> None:
    model = TransformersModel(make_family(family), tokenizer)
    prompt = [5 + place % 200 for place in range(510)]
    row = {"input_ids": [*prompt, 7, 8, 9], "labels": [IGNORED] * 510 + [7, 8, 9]}
    assert len(model.generate([prompt], 8)[0]) <= 2
    assert model.losses([{name: values[:512] for name, values in row.items()}])
    calls = (
        lambda: model.losses([row]),
        lambda: model.generate([row["input_ids"]], 8),
        lambda: model.answer([prompt], [row], 1),
    )
    for beyond in calls:
        with pytest.raises(BadInputError, match=r"a row of 51[34] tokens is longer than .* 512 positions; leave long"):
            beyond()


@pytest.mark.parametrize("family", ["gpt2", "opt", "openai-gpt"])
def test_where_the_table_of_positions_ends_a_row_does_not_depend_on_those_beside_it(
    make_family, tokenizer, family
) -> None:
    model = TransformersModel(make_family(family), tokenizer)
    model._stops = []  # every answer is as long as it may be
    lengths = (507, 20, 510, 24, 507)
    prompts = [[5 + (place * 7 + length) % 200 for place in range(length)] for length in lengths]
    rows = [{"input_ids": [*one, 7, 8], "labels": [IGNORED] * len(one) + [7, 8]} for one in prompts]
    alone = [model.answer([prompt], [row], 8) for prompt, row in zip(prompts, rows, strict=True)]
    written, losses, _ = model.answer(prompts, rows, 8)
    assert [len(answer) for answer in written] == [5, 8, 2, 8, 5]
    assert written == [answer for ((answer,), _, _) in alone] == model.generate(prompts, 8)
    assert losses == pytest.approx([loss for (_, (loss,), _) in alone], rel=1e-4)


def test_the_system_decides_the_system_message_and_length_the_batch(tokenizer) -> None:
    first, second = plan_batches(ROWS, tokenizer, PROMPTS, 2)
    assert [row.id for row, _ in first.rows + second.rows] == ["s", "t", "w"]
    opened = render(tokenizer, [{"role": "system", "content": "Think."}, {"role": "user", "content": "Why?"}])
    assert tokenizer.decode(first.prompts[1]) == opened
    assert "Think." not in tokenizer.decode(second.prompts[0])


def test_a_loss_is_the_mean_over_the_answer_and_its_end(tokenizer, asking) -> None:
    model = load_model(BASE)
    losses = answerer("base", model, asking).losses(ROWS)
    example, _ = ROWS[0]
    prompt = tokenizer(render(tokenizer, [{"role": "user", "content": example.question}]))["input_ids"]
    answer = tokenizer("tool<|im_end|>\n")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0]
    expected = F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer))
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    # Alone or in a batch, with more padding or less.
    assert losses[1:] == pytest.approx(answerer("base", model, asking).losses(ROWS[1:]), rel=1e-5)


def test_answers_come_in_order_with_verdicts_only_where_there_is_a_reference(tokenizer, asking) -> None:
    (batch,) = plan_batches(ROWS, tokenizer, PROMPTS, 8)
    answers, _, seconds = answerer("base", load_model(BASE), asking).answer(batch)
    assert [answer.example_id for answer in answers] == [row.id for row, _ in batch.rows]
    assert {answer.example_id: answer.strict for answer in answers} == {"w": False, "s": None, "t": False}
    assert all(1 <= answer.tokens <= 4 and answer.model == "base" for answer in answers)
    assert seconds > 0


def test_an_adapter_changes_the_answers_and_the_base_comes_back_unharmed(asking, tmp_path) -> None:
    tuned = attach(load_model(BASE), AdapterSettings(rank=2, init="paper"), seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.mul_(30)
    save_adapter(tuned, tmp_path)
    base = load_model(BASE)
    before, digest = answerer("base", base, asking).losses(ROWS), base_digest(base)
    with with_adapter(base, tmp_path) as model:
        assert answerer("tuned", model, asking).losses(ROWS) == pytest.approx(
            answerer("tuned", tuned.eval(), asking).losses(ROWS), abs=1e-5
        )
        assert answerer("tuned", model, asking).losses(ROWS) != pytest.approx(before, abs=1e-2)
    with with_adapter(base, None) as model:
        assert answerer("base", model, asking).losses(ROWS) == before
    assert base_digest(base) == digest


def test_a_folder_without_safetensors_is_no_adapter(tmp_path) -> None:
    with (
        pytest.raises(BadInputError, match=r"has no adapter_model.safetensors"),
        with_adapter(load_model(BASE), tmp_path),
    ):
        pass


def test_a_loss_that_is_not_finite_names_the_row(tokenizer, asking) -> None:
    model = load_model(BASE)
    with torch.no_grad():
        model.get_input_embeddings().weight[60] = float("nan")
    (batch,) = plan_batches(ROWS[:1], tokenizer, PROMPTS, 8)
    with pytest.raises(TrainingError, match="the loss of held-out row w is not finite for after_sft"):
        answerer("after_sft", model, asking).answer(batch)


def test_an_answer_without_any_token_has_no_loss(asking) -> None:
    tokenizer = load_tokenizer(BASE)
    tokenizer.chat_template, tokenizer.eos_token = "{% for m in messages %}{{ m['content'] }}{% endfor %}", None
    empty = Example(id="e", question="?", answer="")
    with pytest.raises(BadInputError, match="held-out row e has an empty answer"):
        answerer("base", load_model(BASE), replace(asking, tokenizer=tokenizer)).losses([(empty, "system1")])


BEGINNING = list(range(40, 52))
TAILS = {
    "nothing alike": [[5, 9, 11], [7, 8, 60, 61, 62, 63, 64], [30]],
    "one beginning": [[*BEGINNING, *tail] for tail in ([5], [7, 8, 60], [30, 31])],
    "more padding than beginning": [[*BEGINNING, *tail] for tail in ([5], list(range(60, 80)), [30, 31])],
    "one is another's beginning": [BEGINNING, [*BEGINNING, 5], [*BEGINNING, 5, 6]],
    "all the same": [BEGINNING] * 3,
}


@pytest.mark.parametrize("prompts", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "gemma3_text", "qwen3_next", "phi"])
def test_a_prompt_that_is_read_once_gives_the_answers_and_losses_of_one_that_is_read_twice(
    family, prompts, make_family, tokenizer
) -> None:
    model = TransformersModel(make_family(family), tokenizer)
    answers = [[3, 4, 5, 2], [9, 2], [12, 13, 14, 15, 16, 2]]
    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    written, losses, _ = model.answer(prompts, rows, 5)
    assert written == model.generate(prompts, 5)
    assert losses == pytest.approx(model.losses(rows), abs=1e-5)


def columns_read(model, prompts, rows, most) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Rows and columns of each forward pass that an answer takes, and the answers."""
    seen: list[tuple[int, int]] = []
    embed = model._model.get_input_embeddings()
    hook = embed.register_forward_pre_hook(lambda _embed, args: seen.append(tuple(args[0].shape)))
    written, _, _ = model.answer(prompts, rows, most)
    hook.remove()
    return seen, written


def test_what_prompts_begin_with_is_computed_once_and_rows_that_ended_no_more(make_family, tokenizer) -> None:
    model = TransformersModel(make_family("llama"), tokenizer)
    prompts = [[*BEGINNING, *tail] for tail in ([5], [7, 8], [30])]
    rows = [{"input_ids": [*prompt, 3, 2], "labels": [-100] * len(prompt) + [3, 2]} for prompt in prompts]
    model._stops = ()
    seen, free = columns_read(model, prompts, rows, 6)
    assert seen == [(1, 12), (3, 2), *[(3, 1)] * 5, (3, 2)], "the beginning, its tails, tokens, then the losses"
    ended = next(place for place, token in enumerate(free[1]) if token not in free[0] + free[2])
    model._stops = (free[1][ended],)
    seen, stopped = columns_read(model, prompts, rows, 6)
    assert stopped == [free[0], free[1][: ended + 1], free[2]]
    assert seen == [(1, 12), (3, 2), *[(3, 1)] * ended, *[(2, 1)] * (5 - ended), (3, 2)]


def test_in_a_narrow_format_batches_are_computed_whole(make_family, tokenizer) -> None:
    """Other shapes round otherwise there, which may turn an answer."""
    prompts = [[*BEGINNING, 5], [*BEGINNING, 7]]
    rows = [{"input_ids": [*prompt, 3], "labels": [-100] * len(prompt) + [3]} for prompt in prompts]
    for model in (
        TransformersModel(make_family("llama").bfloat16(), tokenizer),
        TransformersModel(make_family("llama").half(), tokenizer),
        TransformersModel(make_family("llama").half(), tokenizer, autocast=True),
        TransformersModel(make_family("llama"), tokenizer, autocast=True),
    ):
        seen, _ = columns_read(model, prompts, rows, 1)
        assert seen == [(2, 13), (2, 1)]


def test_an_answer_whose_first_token_reaches_into_the_prompt_is_read_as_a_whole(tokenizer) -> None:
    model = TransformersModel(load_model(BASE), tokenizer)
    row = {"input_ids": [5, 9, 70, 4, 2], "labels": [-100, -100, 70, 4, 2]}
    _, losses, _ = model.answer([[5, 9, 11]], [row], 3)
    assert losses == pytest.approx(model.losses([row]), abs=1e-6)


def test_an_adapter_in_bfloat16_answers_bit_by_bit_as_autocast_makes_it(tokenizer, tmp_path) -> None:
    tuned = attach(load_model(BASE), AdapterSettings(rank=2, init="paper"), seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.mul_(30)
    save_adapter(tuned, tmp_path)
    row = {"input_ids": [5, 9, 70, 4, 2], "labels": [-100, -100, 70, 4, 2]}
    with with_adapter(load_model(BASE), tmp_path) as plain:
        expected = TransformersModel(plain, tokenizer, autocast=True).losses([row])
    with TransformersEngine(load_model(BASE), tokenizer, autocast=True).asked(tmp_path) as model:
        assert model.losses([row]) == expected
    with TransformersEngine(load_model(BASE), tokenizer, autocast=True).asked(None) as model:
        assert model.losses([row]) != expected
