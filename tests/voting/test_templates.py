"""What a teacher is shown: the same text everywhere, whatever the user's text holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lorapar.config import ModelConfig, TeacherTemplate
from lorapar.records import Example, Turn
from lorapar.voting.teacher import plays_role, render, target_text, template_digest

FEW_SHOT = (
    {"question": "Capital of France?", "answer": "Paris", "system": "system1"},
    {"question": "3+4-2?", "answer": "5", "system": "system2"},
)
WORDS = {"system1": "fact", "system2": "math"}
PLAIN = TeacherTemplate(
    style="plain", instruction="You are {target}: {system1} or {system2}?", label_words=WORDS, few_shot=FEW_SHOT
)
CHAT = PLAIN.model_copy(update={"style": "chat"})
ASKED = Example(id="1", question="2+2?", answer="4")


def test_plain_text_ends_where_the_label_word_follows() -> None:
    prompt = render(PLAIN, ASKED, "Tiny (a small model)", role_play=True)
    assert prompt.messages is None
    assert prompt.text == (
        "You are Tiny (a small model): fact or math?\n\n"
        "Question: Capital of France?\nAnswer: Paris\nKind: fact\n\n"
        "Question: 3+4-2?\nAnswer: 5\nKind: math\n\n"
        "Question: 2+2?\nAnswer: 4\nKind:"
    )
    assert prompt.continuations == {"system1": " fact", "system2": " math"}


def test_chat_has_the_instruction_in_the_first_user_message_and_label_words_as_answers() -> None:
    prompt = render(CHAT, ASKED, "Tiny", role_play=True)
    assert prompt.text is None
    assert prompt.messages is not None
    assert [message["role"] for message in prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert prompt.messages[0]["content"].startswith("You are Tiny: fact or math?\n\nQuestion: Capital of France?")
    assert prompt.messages[1]["content"] == "fact"
    assert prompt.messages[-1]["content"] == "Question: 2+2?\nAnswer: 4\nKind:"
    assert prompt.continuations == {"system1": "fact", "system2": "math"}


def test_without_few_shot_rows_a_chat_is_one_message() -> None:
    bare = CHAT.model_copy(update={"few_shot": ()})
    prompt = render(bare, ASKED, "Tiny", role_play=True)
    assert [message["role"] for message in prompt.messages or ()] == ["user"]


def test_a_teacher_sees_the_turns_before_the_question() -> None:
    before = (Turn(role="user", content="1+1?"), Turn(role="assistant", content="2"))
    prompt = render(PLAIN, ASKED.model_copy(update={"history": before}), "Tiny", role_play=True)
    assert prompt.text is not None
    assert prompt.text.endswith("Question: User: 1+1?\n\nAssistant: 2\n\nUser: 2+2?\nAnswer: 4\nKind:")


def test_white_space_at_the_end_of_a_row_belongs_to_the_label_word() -> None:
    prompt = render(PLAIN.model_copy(update={"row": "Q: {question}\nKind:\n"}), ASKED, "Tiny", role_play=True)
    assert prompt.text is not None
    assert prompt.text.endswith("Q: 2+2?\nKind:")
    assert "Q: 3+4-2?\nKind:\nmath\n\n" in prompt.text
    assert prompt.continuations == {"system1": "\nfact", "system2": "\nmath"}


def test_role_play_off_gives_the_neutral_wording_and_does_not_name_the_target() -> None:
    template = PLAIN.model_copy(update={"neutral_instruction": "Say {system1} or {system2}."})
    prompt = render(template, ASKED, "Tiny", role_play=False)
    assert prompt.text is not None
    assert prompt.text.startswith("Say fact or math.\n\n")
    assert "Tiny" not in prompt.text
    assert template_digest(template, "Tiny", False) == template_digest(template, "Other", False)
    assert template_digest(template, "Tiny", True) != template_digest(template, "Other", True)


def test_an_instruction_without_the_target_plays_no_role() -> None:
    assert plays_role(PLAIN, role_play=True)
    assert not plays_role(PLAIN, role_play=False)
    assert not plays_role(PLAIN.model_copy(update={"instruction": "Fact or math?"}), role_play=True)


@given(question=st.text(), answer=st.text())
def test_braces_and_anything_else_in_the_data_stay_as_they_are(question: str, answer: str) -> None:
    template = PLAIN.model_copy(update={"row": "[{question}|{answer}] {json}"})
    prompt = render(template, Example(id="1", question=question, answer=answer), "Tiny", role_play=True)
    assert prompt.text is not None
    assert prompt.text.endswith(f"\n\n[{question}|{answer}] {{json}}")


def test_placeholders_in_the_data_are_not_filled_in() -> None:
    tricky = Example(id="1", question="{answer} {target} {0} {", answer="{question}")
    prompt = render(PLAIN, tricky, "Tiny", role_play=True)
    assert prompt.text is not None
    assert prompt.text.endswith("Question: {answer} {target} {0} {\nAnswer: {question}\nKind:")


@pytest.mark.parametrize(
    "change",
    [
        {"style": "chat"},
        {"instruction": "Other {target}"},
        {"row": "{question} ="},
        {"label_words": {"system1": "recall", "system2": "math"}},
        {"few_shot": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_changes_with_everything_a_teacher_is_told(change) -> None:
    assert template_digest(PLAIN.model_copy(update=change), "T", True) != template_digest(PLAIN, "T", True)
    assert template_digest(TeacherTemplate.model_validate(PLAIN.model_dump()), "T", True) == template_digest(
        PLAIN, "T", True
    )


def test_the_target_is_introduced_by_name_and_description_without_folders() -> None:
    assert target_text(ModelConfig(name="Owner/Model-1B", description="a model")) == "Model-1B (a model)"
    assert target_text(ModelConfig(name="/some/where/model", description="")) == "model"


def test_a_row_that_does_not_show_the_question_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"row must hold \{question\}"):
        TeacherTemplate(row="Kind:")
