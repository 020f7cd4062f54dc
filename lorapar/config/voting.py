"""Who votes and how votes become labels: the sections `teachers` and `voting`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lorapar.config.base import Dtype, Fraction, Name, Positive, Rate, Section


class FewShotRow(Section):
    """One worked example in a teacher's prompt."""

    question: str = Field(description="Question shown to the teacher")
    answer: str = Field(description="Reference answer shown to the teacher")
    system: Literal["system1", "system2"] = Field(description="The right label of this row")


class TeacherTemplate(Section):
    """How a teacher is asked: every backend renders it identically."""

    style: Literal["chat", "plain"] = Field("chat", description="Chat messages, or one plain text to be continued")
    instruction: str = Field(
        "You judge examples for training {target}. Answer as {target} would experience them: {system1} if it can be "
        "answered at once by recall or one simple inference, {system2} if it needs several chained steps.",
        description="Opening words; {target} is the role-played model, {system1} and {system2} the label words",
    )
    neutral_instruction: str = Field(
        "You judge examples for training a language model. Answer {system1} if an example can be answered at once by "
        "recall or one simple inference, {system2} if it needs several chained steps.",
        description="Opening words where voting.role_play is off; {system1} and {system2} are the label words",
    )
    row: str = Field(
        "Question: {question}\nAnswer: {answer}\nKind:", description="How one row is shown; the label word follows"
    )
    label_words: dict[Literal["system1", "system2"], str] = Field(
        {"system1": "System1", "system2": "System2"}, description="The word that stands for each system"
    )
    few_shot: tuple[FewShotRow, ...] = Field((), description="Worked examples shown before the row")

    @model_validator(mode="after")
    def _labels_differ(self) -> TeacherTemplate:
        words = [word.strip() for word in self.label_words.values()]
        if len(self.label_words) != 2 or len(set(words)) != 2 or "" in words:
            raise ValueError("label_words needs two different, non-empty words, for system1 and system2")
        return self

    @field_validator("row")
    @classmethod
    def _row_shows_the_question(cls, row: str) -> str:
        if "{question}" not in row:
            raise ValueError("row must hold {question}, or every example would look the same to the teacher")
        return row


class TeacherConfig(Section):
    """One voter."""

    name: Name = Field(description="Name the teacher's votes are recorded under")
    backend: Literal["transformers"] = Field("transformers", description="What runs the teacher")
    model: str | None = Field(None, description="Hub name or local folder; absent: the base model itself")
    revision: str | None = Field(None, description="Hub revision of the teacher")
    dtype: Dtype = Field("bfloat16", description="Number format of the teacher's weights")
    batch_size: Positive = Field(16, description="Rows asked at once")
    weight: Rate = Field(1.0, description="Weight of its vote in the majority")
    template: TeacherTemplate = Field(default_factory=TeacherTemplate, description="How it is asked")
    digest: str | None = Field(None, description="sha256 identity of its own model's weights; filled in by `plan`")


class VotingConfig(Section):
    """How votes become labels."""

    role_play: bool = Field(True, description="Tell teachers to act as the target model (paper section 3.1)")
    quorum: Positive | None = Field(None, description="Teachers asked about every row; absent: a bare majority of them")
    tie: Literal["system1", "system2", "hold_out"] = Field("system2", description="What a tied row becomes")
    min_agreement: Fraction = Field(0.0, description="Least share of the votes cast a label needs; 0: none")
    below_agreement: Literal["keep", "hold_out"] = Field("keep", description="What rows below min_agreement become")
