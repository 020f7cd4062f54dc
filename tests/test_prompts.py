"""What the model is asked, and that its tokens and labels are those of TRL's own SFTTrainer."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.basemodel.chat_template import PLAIN_TEMPLATE
from lorapar.config import ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.prompts import (
    IGNORED,
    chat_rows,
    collate,
    encode_rows,
    fit_rows,
    prompt_ids,
    prompt_messages,
    render,
    rows_of,
)
from lorapar.records import Example, Turn

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
PROMPTS = PromptConfig(system1=None, system2="Show steps.")
FACT = Example(id="fact", question="What is a mon-ula?", answer="plant", reference="plant")
SUM = Example(id="sum", question="3+14?", answer="<answer>17</answer>", reference="17")
ROWS = [(FACT, "system1"), (SUM, "system2"), (SUM.model_copy(update={"id": "again"}), None)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


def test_the_system_message_depends_on_the_system():
    question = {"role": "user", "content": "3+14?"}
    assert prompt_messages(SUM, "system1", PROMPTS) == [question]
    assert prompt_messages(SUM, "system2", PROMPTS) == [{"role": "system", "content": "Show steps."}, question]


def test_chat_rows_carry_what_trl_and_the_rewards_need():
    assert chat_rows(rows_of([FACT], "system1"), PROMPTS) == [
        {
            "id": "fact",
            "prompt": [{"role": "user", "content": "What is a mon-ula?"}],
            "completion": [{"role": "assistant", "content": "plant"}],
            "reference": "plant",
        }
    ]


def test_a_rendered_prompt_ends_where_the_answer_begins(tokenizer):
    text = render(tokenizer, prompt_messages(SUM, "system2", PROMPTS))
    assert (
        text == "<|im_start|>system\nShow steps.<|im_end|>\n<|im_start|>user\n3+14?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(prompt_ids(tokenizer, prompt_messages(SUM, "system2", PROMPTS))) == text


def test_a_model_without_a_chat_template_gets_plain_text(tokenizer, plain_tokenizer):
    assert render(plain_tokenizer, prompt_messages(SUM, "system2", PROMPTS)) == (
        f"{tokenizer.bos_token}Show steps.\n\nQuestion: 3+14?\nAnswer:\n"
    )


@pytest.fixture
def plain_tokenizer():
    tokenizer = load_tokenizer(TINY)
    tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def test_a_template_that_takes_no_system_message_is_reported_in_one_line():
    refusing = load_tokenizer(TINY)
    refusing.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(BadInputError, match=r"refuses the roles system, user .*with model\.chat_template"):
        render(refusing, prompt_messages(SUM, "system2", PROMPTS))


@given(question=st.text(max_size=30), answer=st.text(min_size=1, max_size=30))
def test_exactly_the_answer_and_its_end_of_turn_are_learned(tokenizer, question, answer):
    example = Example(id="any", question=question, answer=answer)
    (row,) = encode_rows(tokenizer, [(example, "system2")], PROMPTS, max_length=1000)
    learned = [label for label in row["labels"] if label != IGNORED]
    assert tokenizer.decode(learned) == answer + "<|im_end|>\n"
    assert row["input_ids"][-len(learned) :] == learned


TALK = Example(
    id="talk",
    question="And 3+4?",
    answer="7",
    system_message="Be brief.",
    history=(
        Turn(role="user", content="1+1?"),
        Turn(role="assistant", content="2"),
        Turn(role="user", content="Is 2 or 3 right?"),
        Turn(role="assistant", content="2"),
    ),
)


def learned_texts(tokenizer, row, template=None, **options):
    """The texts that labels stand on, in their order."""
    if template:
        tokenizer = load_tokenizer(TINY.model_copy(update={"chat_template": template}))
    (encoded,) = encode_rows(tokenizer, [row], PROMPTS, 1000, **options)
    runs = groupby(zip(encoded["input_ids"], encoded["labels"], strict=True), key=lambda pair: pair[1] != IGNORED)
    assert all(label in (IGNORED, token) for token, label in zip(*encoded.values(), strict=True))
    return [tokenizer.decode([token for token, _ in pairs]) for learned, pairs in runs if learned]


def test_turns_before_the_question_and_the_rows_own_system_message_are_asked_with_it():
    first, *turns, question = prompt_messages(TALK, "system2", PROMPTS)
    assert first == {"role": "system", "content": "Be brief.\n\nShow steps."}
    assert [(turn["role"], turn["content"]) for turn in turns] == [(one.role, one.content) for one in TALK.history]
    assert question == {"role": "user", "content": "And 3+4?"}
    assert prompt_messages(TALK, "system1", PROMPTS)[0]["content"] == "Be brief."


@pytest.mark.parametrize("system", ["system1", "system2"])
def test_the_last_answer_is_learned_or_every_one_with_what_ends_it(tokenizer, system):
    assert learned_texts(tokenizer, (TALK, system)) == ["7<|im_end|>\n"]
    every = ["2<|im_end|>\n", "2<|im_end|>\n", "7<|im_end|>\n"]
    assert learned_texts(tokenizer, (TALK, system), train_on="all") == every
    held = TALK.history[1].model_copy(update={"learned": False})  # its row says weight 0
    row = TALK.model_copy(update={"history": (TALK.history[0], held, *TALK.history[2:])})
    assert learned_texts(tokenizer, (row, system), train_on="all") == every[1:]
    assert learned_texts(tokenizer, (FACT, system), train_on="all") == ["plant<|im_end|>\n"]


MESSAGE = "{{ '<|im_start|>' + m.role + '\n' + CONTENT + '<|im_end|>\n' }}"


@pytest.mark.parametrize(
    ("content", "opened", "expected"),
    [
        # Qwen3 drops the thoughts of turns that are past, and its prompt may open and close an empty one.
        ("(m.content.split('</think>') | last)", "", ["2<|im_end|>\n", "7<|im_end|>\n"]),
        ("(m.content if loop.last else m.content.split('</think>') | last)", "<think>\n\n</think>\n\n",
         ["2<|im_end|>\n", "7<|im_end|>\n"]),
        ("(m.content if m.role != 'assistant' or loop.last else 'so it is')", "", ["7<|im_end|>\n"]),
    ],
)  # fmt: skip
def test_a_past_answer_that_the_template_changes_is_not_learned(tokenizer, content, opened, expected):
    thought = Turn(role="assistant", content="<think>hm</think>3")
    row = TALK.model_copy(update={"history": (TALK.history[0], thought, *TALK.history[2:])})
    prompt = f"{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n{opened}' }}}}{{% endif %}}"
    template = f"{{% for m in messages %}}{MESSAGE.replace('CONTENT', content)}{{% endfor %}}{prompt}"
    assert learned_texts(tokenizer, (row, "system1"), template, train_on="all") == expected
    asked = load_tokenizer(TINY.model_copy(update={"chat_template": template}))
    held = row.history[3].model_copy(update={"learned": False})
    once = row.model_copy(update={"history": (*row.history[:3], held)})
    for one, earlier in ((row, 2), (once, 1), (FACT, 0)):
        found = fit_rows(asked, [(one, "system1")], PROMPTS, 1000, "a.limit", "all")
        assert found.encoded == encode_rows(asked, [(one, "system1")], PROMPTS, 1000, "all")
        *_, left = found.omissions
        learned = len(learned_texts(tokenizer, (one, "system1"), template, train_on="all")) - 1
        assert (left.total, left.count) == (earlier, earlier - learned)


def test_labels_on_every_answer_are_those_of_trl(tmp_path):
    """TRL learns from `{% generation %}` marks where a template has them."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chosen = load_tokenizer(TINY.model_copy(update={"chat_template": marked}))
    (row,) = chat_rows([(TALK, "system1")], PROMPTS)
    arguments = SFTConfig(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, disable_tqdm=True, assistant_only_loss=True
    )
    data = Dataset.from_list([{"messages": row["prompt"] + row["completion"]}])
    trainer = SFTTrainer(model=load_model(TINY), args=arguments, train_dataset=data, processing_class=chosen)
    batch = trainer.data_collator([dict(one) for one in trainer.train_dataset])
    ours = collate(encode_rows(chosen, [(TALK, "system1")], PROMPTS, 1000, "all"), chosen.pad_token_id)
    assert ours["input_ids"].equal(batch["input_ids"])
    assert ours["labels"].equal(batch["labels"])


def test_long_rows_are_cut_at_the_end_and_rows_without_answer_left_out(tokenizer):
    (whole,) = encode_rows(tokenizer, [ROWS[0]], PROMPTS, max_length=1000)
    prompt_length = whole["labels"].count(IGNORED)
    (cut,) = encode_rows(tokenizer, [ROWS[0]], PROMPTS, max_length=prompt_length + 2)
    assert cut["input_ids"] == whole["input_ids"][: prompt_length + 2]
    assert tokenizer.decode([label for label in cut["labels"] if label != IGNORED]) == "pl"
    assert encode_rows(tokenizer, [ROWS[0]], PROMPTS, max_length=prompt_length) == []


def test_masks_come_from_lengths_although_pad_is_end_of_turn(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [{"input_ids": [5, 6, 2], "labels": [IGNORED, 6, 2]}, {"input_ids": [7, 2], "labels": [IGNORED, 2]}]
    batch = collate(rows, tokenizer.pad_token_id)
    assert batch["input_ids"].tolist() == [[5, 6, 2], [7, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 2], [IGNORED, 2, IGNORED]]


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("max_length", [1000, 90, 60])
def test_tokens_and_labels_are_those_of_trl(tmp_path, tokenizer, plain_tokenizer, template, max_length):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chosen = tokenizer if template == "chat" else plain_tokenizer
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_length=max_length, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True
    )
    data = Dataset.from_list(chat_rows(ROWS, PROMPTS))
    trainer = SFTTrainer(model=load_model(TINY), args=arguments, train_dataset=data, processing_class=chosen)
    theirs = [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset]
    ours = encode_rows(chosen, ROWS, PROMPTS, max_length)
    assert ours == theirs

    their_batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    for key, tensor in collate(ours, chosen.pad_token_id).items():
        assert tensor.equal(their_batch[key]), key


def test_rows_that_are_left_out_and_rows_that_are_cut_are_reported_separately(tokenizer):
    encoded = encode_rows(tokenizer, ROWS, PROMPTS, max_length=1000)
    longest = max(encoded, key=lambda row: len(row["input_ids"]))
    whole = fit_rows(tokenizer, ROWS, PROMPTS, len(longest["input_ids"]), "a.limit")
    assert whole.encoded == encoded
    assert [one.count for one in whole.omissions] == [0, 0]
    limit = len(longest["input_ids"]) - 1
    shorter = fit_rows(tokenizer, ROWS, PROMPTS, limit, "a.limit")
    assert shorter.encoded == encode_rows(tokenizer, ROWS, PROMPTS, limit)
    left_out, cut = shorter.omissions
    assert (left_out.count, cut.count) == (0, 1)
    prompt = longest["labels"].count(-100)
    left_out, cut = fit_rows(tokenizer, ROWS, PROMPTS, prompt, "a.limit").omissions
    assert left_out.count >= 1
    assert left_out.remedy == cut.remedy == "raise a.limit"
