"""Tags of an answer are settings: every rule reads an answer by them, and the default ones change nothing."""

from __future__ import annotations

import pytest

from lorapar.config import PromptConfig, RunConfig, load_config
from lorapar.config.tags import TagsConfig
from lorapar.errors import BadInputError
from lorapar.evaluation import strict_match
from lorapar.training.rewards import REWARDS

QWEN = TagsConfig(think=("<think>", "</think>"), answer=None)
MISTRAL = TagsConfig(think=("[THINK]", "[/THINK]"), answer=("[OUT]", "[/OUT]"))
GPT_OSS = TagsConfig(think=("analysis", "assistantfinal"), answer=None)


def rewards(text: str) -> dict[str, float | None]:
    return {name: function([text], ["7"])[0] for name, function in REWARDS.items()}


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (TagsConfig(), "<reasoning>3+4</reasoning><answer>7</answer>"),
        (QWEN, "<think>3+4</think>\n\n7"),
        (MISTRAL, "[THINK]3+4[/THINK] [OUT]7[/OUT]"),
        (GPT_OSS, "analysis3+4assistantfinal7"),
        (TagsConfig(think=("<a>", "<b>"), answer=("<b>x", "</b>")), "<a>3+4<b><b>x7</b>"),
    ],
)
def test_a_right_answer_has_every_reward_in_any_tags(tags, text) -> None:
    read = tags.read(text)
    assert set(rewards(read).values()) == {1.0}
    assert strict_match(read, "7", "system2") is True


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (QWEN, "<think>3+4 is 7"),
        (QWEN, "<reasoning>3+4</reasoning><answer>7</answer>"),
        (MISTRAL, "<reasoning>3+4</reasoning><answer>7</answer>"),
        (MISTRAL, "[THINK]3+4[/THINK] 7"),
    ],
)
def test_an_answer_in_other_tags_is_wrong(tags, text) -> None:
    read = tags.read(text)
    assert rewards(read)["exact_answer"] == 0.0
    assert strict_match(read, "7", "system2") is False


def test_a_prompt_may_have_opened_the_steps() -> None:
    assert set(rewards(QWEN.read("3+4</think>7", opened=True)).values()) == {1.0}
    assert rewards(QWEN.read("3+4</think>7"))["tag_count"] == pytest.approx(0.75)
    again = "<think>3+4</think>7"
    assert QWEN.read(again, opened=True) == QWEN.read(again)


def test_a_word_without_steps_is_taken_whole_where_none_are_asked_for() -> None:
    assert strict_match(QWEN.read("Paris"), "Paris", "system1") is True
    assert strict_match(QWEN.read("<think>\n\n</think>\n\nParis"), "Paris", "system1") is True


@pytest.mark.parametrize("text", ["<answer>7</answer>", "<think>x</think>", "7 <reasoning>", ""])
def test_the_default_tags_leave_a_text_as_it_is(text) -> None:
    assert TagsConfig().read(text) == text
    assert TagsConfig().written(text) == text


@pytest.mark.parametrize("tags", [QWEN, MISTRAL, GPT_OSS])
def test_what_is_written_is_read_back(tags) -> None:
    plain = "<reasoning>3+4</reasoning><answer>7</answer>"
    written = tags.written(plain)
    assert "<answer>" not in written
    assert tags.read(written) == plain.replace(
        "</reasoning>", "</reasoning>" + ("" if tags.answer else "\n\n")
    ).replace("\n\n", "")


def test_the_default_message_names_the_tags_and_ones_own_is_kept() -> None:
    assert PromptConfig().message_for("system2") == PromptConfig().system2
    assert "<think>your steps</think> and then the result" in str(PromptConfig(tags=QWEN).message_for("system2"))
    assert PromptConfig(system2="Think.", tags=QWEN).message_for("system2") == "Think."
    assert "tags" not in RunConfig().prompts.model_dump()
    assert PromptConfig(tags=QWEN).model_dump()["tags"]["answer"] is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("prompts.tags.think=[<think>, <think>]", "two tags are the same"),
        ("prompts.tags.think=['', x]", "a tag is a text without white space around it"),
        ("prompts.tags.answer=[x]", "prompts.tags.answer"),
        ("prompts.tags.reasoning=[a, b]", "prompts.tags.reasoning: no such key"),
    ],
)
def test_what_can_be_no_tags_is_named(value, message) -> None:
    with pytest.raises(BadInputError, match=message):
        load_config(preset="tiny", overrides=[value])
