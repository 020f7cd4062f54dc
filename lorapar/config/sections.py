"""The sections of a run's settings. Defaults follow the paper (Huang et al. 2025, section 4); see docs/method.md.

Each field carries a one-line description with its unit; `docs/configuration.md` is generated from them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

SYSTEMS: tuple[str, str] = ("system1", "system2")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Dtype = Literal["float32", "bfloat16", "float16"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


class Section(BaseModel):
    """A group of settings; unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The base model that is tuned; it is read, never edited."""

    name: str = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="Hub name or local folder of the base model")
    revision: str | None = Field(None, description="Hub branch, tag or commit; `plan` turns it into a commit")
    dtype: Dtype = Field("bfloat16", description="Number format the base weights are held in while tuning")
    autocast: Literal["none", "bfloat16"] = Field("none", description="Format of matrix products in the forward pass")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model (off: refuse it)")
    description: str = Field("a small general language model", description="What teachers are told the target model is")
    digest: str | None = Field(None, description="sha256 identity of the weights; filled in by `plan`")


class ColumnMapping(Section):
    """Which column of a data set plays which part."""

    question: str = Field("question", description="Column with the question or instruction")
    context: str | None = Field(None, description="Column with extra input put below the question")
    answer: str = Field("answer", description="Column with the full answer the model learns to write")
    reference: str | None = Field(None, description="Column with the short exact answer used by rewards and accuracy")
    reference_pattern: str | None = Field(
        None, description="Regular expression whose first group finds the short answer inside the answer column"
    )
    system: str | None = Field(None, description="Column with the known system of a row, where there is one")
    id: str | None = Field(None, description="Column with a row's name; a digest of its text where absent")


class TaskMixConfig(Section):
    """Sizes of the project's own generated data."""

    system1_train: Positive = Field(128, description="System 1 rows to train on")
    system1_heldout: Positive = Field(64, description="System 1 rows held out for evaluation")
    system2_train: Positive = Field(128, description="System 2 rows to train on")
    system2_heldout: Positive = Field(64, description="System 2 rows held out for evaluation")


class DataConfig(Section):
    """Where the examples come from."""

    source: str = Field("task-mix", description="`task-mix`, a .jsonl/.json/.csv/.parquet file, or `hub:OWNER/NAME`")
    revision: str | None = Field(None, description="Hub revision of the data set")
    subset: str | None = Field(None, description="Hub configuration name of the data set")
    split: str = Field("train", description="Hub split to read")
    mapping: str | None = Field(None, description="A ready mapping: gsm8k, dolly, openplatypus, codealpaca")
    columns: ColumnMapping | None = Field(None, description="A mapping of one's own; wins over `mapping`")
    limit: Positive | None = Field(None, description="Read at most this many rows")
    bad_rows: Literal["refuse", "leave_out"] = Field(
        "refuse", description="Rows without a question or answer, and repeated questions: an error, or left out"
    )
    heldout: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="Rows held out for evaluation: a share below 1, a number of rows from 1 on"
    )
    task_mix: TaskMixConfig = Field(default_factory=TaskMixConfig, description="Sizes, where the source is task-mix")
    digest: str | None = Field(None, description="sha256 of what the source holds; filled in by `plan`")


class PromptConfig(Section):
    """What stands before a question when the target model is asked."""

    system1: str | None = Field(None, description="System message of System 1 rows")
    system2: str | None = Field(
        "Think step by step. Reply exactly as <reasoning>your steps</reasoning><answer>the result</answer>.",
        description="System message of System 2 rows",
    )

    def message_for(self, system: str | None) -> str | None:
        """The system message of rows of `system`; rows without a system are asked like System 1."""
        return self.system2 if system == "system2" else self.system1


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


class AdapterConfig(Section):
    """The LoRA adapter; defaults follow the paper, but for the start."""

    rank: Positive = Field(8, description="Rank r of the trainable LoRA factors")
    alpha: Rate = Field(64.0, description="lora_alpha; the update is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.05, description="LoRA dropout while training")
    layout: Literal["QKVGUD", "QKV", "GUD"] = Field("QKVGUD", description="Projections that carry LoRA")
    init: Literal["residual", "paper", "pissa", "olora"] = Field("residual", description="How A and B start")


class ScoreConfig(Section):
    """Importance of every element (paper section 3.2)."""

    examples: Positive = Field(100, description="Rows of each system that are scored")
    batch_size: Positive = Field(1, description="Rows in one forward pass; the scores do not depend on it")
    max_length: Positive = Field(512, description="Longest row in tokens; longer rows are cut at the end")


class PartitionConfig(Section):
    """Which elements each system may train (paper section 3.3)."""

    theta: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.9, description="Share of the total importance kept")
    alpha: Fraction = Field(1.0, description="Share of the shared elements that SFT on System 1 may train")
    beta: Fraction = Field(1.0, description="Share of the shared elements that RL on System 2 may train")


class SftConfig(Section):
    """Supervised fine-tuning on System 1 (paper section 4.1)."""

    rows: Literal["system1", "all"] = Field("system1", description="Rows trained on; `all` is the authors' script")
    warmup_system2_examples: Annotated[int, Field(ge=0)] = Field(
        0, description="System 2 rows mixed in so that RL starts with some reward"
    )
    warmup_repeats: Positive = Field(1, description="Times each of those System 2 rows appears in an epoch")
    loss_average: Literal["token", "row"] = Field(
        "token",
        description="The loss is a mean over answer tokens, or over rows: short answers then count like long ones",
    )
    epochs: Rate = Field(1.0, description="Passes over the rows")
    max_steps: Positive | None = Field(None, description="Optimiser steps, where epochs shall not decide")
    learning_rate: Rate = Field(2e-4, description="Peak learning rate")
    scheduler: Scheduler = Field("cosine", description="Learning-rate schedule")
    warmup_ratio: Fraction = Field(0.03, description="Share of the steps the learning rate rises over")
    batch_size: Positive = Field(1, description="Rows in one forward pass")
    gradient_accumulation: Positive = Field(32, description="Forward passes to one optimiser step")
    max_length: Positive = Field(512, description="Longest row in tokens; longer rows are cut at the end")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW decay of the active elements")
    max_grad_norm: Rate = Field(1.0, description="Gradient norm of the active elements is clipped to this")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time")

    @model_validator(mode="after")
    def _warmup_fits_rows(self) -> SftConfig:
        if self.rows == "all" and self.warmup_system2_examples:
            raise ValueError(
                "rows is 'all', so SFT sees every System 2 row already; set warmup_system2_examples to 0 with it"
            )
        return self


class RlConfig(Section):
    """Reinforcement learning by GRPO on System 2 (paper section 4.2)."""

    rows: Literal["system2", "all"] = Field("system2", description="Rows trained on; `all` is the authors' script")
    epochs: Rate = Field(1.0, description="Passes over the rows")
    max_steps: Positive | None = Field(None, description="Optimiser steps, where epochs shall not decide")
    learning_rate: Rate = Field(5e-6, description="Peak learning rate")
    scheduler: Scheduler = Field("cosine", description="Learning-rate schedule")
    warmup_ratio: Fraction = Field(0.1, description="Share of the steps the learning rate rises over")
    batch_size: Positive = Field(8, description="Completions in one forward pass")
    gradient_accumulation: Positive = Field(4, description="Forward passes to one optimiser step")
    num_generations: Annotated[int, Field(ge=2)] = Field(8, description="Completions of each prompt: the group")
    max_prompt_length: Positive = Field(128, description="Longest prompt in tokens; rows above it are left out")
    max_completion_length: Positive = Field(256, description="Longest completion in tokens")
    temperature: Rate = Field(1.0, description="Sampling temperature of the rollouts")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(1.0, description="Nucleus of the rollouts' sampling")
    kl_beta: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Weight of the KL term towards the reference")
    reference: Literal["base", "sft"] = Field("sft", description="The reference model of the KL term")
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field("grpo", description="How TRL averages the loss")
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="What advantages are divided by")
    rewards: dict[str, float] = Field(
        {
            "exact_answer": 2.0,
            "integer_answer": 0.5,
            "strict_format": 0.5,
            "soft_format": 0.5,
            "tag_count": 0.5,
        },
        description="Weight of each reward; a key of one's own is an import path, `package.module:function`",
    )
    adam_beta1: Fraction = Field(0.9, description="AdamW beta 1")
    adam_beta2: Fraction = Field(0.99, description="AdamW beta 2")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.1, description="AdamW decay of the active elements")
    max_grad_norm: Rate = Field(0.1, description="Gradient norm of the active elements is clipped to this")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time")

    @field_validator("rewards")
    @classmethod
    def _reward_names(cls, rewards: dict[str, float]) -> dict[str, float]:
        from lorapar.errors import nearest

        for key in rewards:
            if key not in REWARD_NAMES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", key):
                raise ValueError(
                    f"'{key}' is no reward{nearest(key, list(REWARD_NAMES))}; one of "
                    f"{', '.join(REWARD_NAMES)}, or an import path like package.module:function"
                )
        if not any(rewards.values()):
            raise ValueError("every weight is 0, so RL would learn nothing; give at least one reward a weight")
        return rewards

    @model_validator(mode="after")
    def _groups_fill_batches(self) -> RlConfig:
        if (self.batch_size * self.gradient_accumulation) % self.num_generations:
            raise ValueError(
                f"batch_size * gradient_accumulation ({self.batch_size} * {self.gradient_accumulation}) must be a "
                f"multiple of num_generations ({self.num_generations}), or a group would be torn apart"
            )
        return self


REWARD_NAMES = ("exact_answer", "integer_answer", "strict_format", "soft_format", "tag_count")


class EvaluateConfig(Section):
    """Held-out scores of base, after SFT and after RL."""

    limit: Positive | None = Field(None, description="Rows of each system that are evaluated; absent: all held-out")
    batch_size: Positive = Field(32, description="Rows generated for at once")
    max_new_tokens: Positive = Field(256, description="Longest answer in tokens")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="Level of the intervals")


class ReportConfig(Section):
    """What the report shows."""

    answers: Annotated[int, Field(ge=0)] = Field(10, description="Answers shown before and after, side by side")
    votes: Annotated[int, Field(ge=0)] = Field(20, description="Rows of each label shown in the votes section")


class RunConfig(Section):
    """Every setting of one run; a stage sees only the sections it names."""

    name: Name = Field("adapter", description="Name of the adapter this run makes")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of everything random")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The base model")
    data: DataConfig = Field(default_factory=DataConfig, description="The examples")
    prompts: PromptConfig = Field(default_factory=PromptConfig, description="System messages")
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = Field(
        (TeacherConfig(name="self"),), description="The voters"
    )
    voting: VotingConfig = Field(default_factory=VotingConfig, description="How votes become labels")
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="The LoRA adapter")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="Importance scoring")
    partition: PartitionConfig = Field(default_factory=PartitionConfig, description="Element partition")
    sft: SftConfig = Field(default_factory=SftConfig, description="System 1 tuning")
    rl: RlConfig = Field(default_factory=RlConfig, description="System 2 tuning")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="Held-out scores")
    report: ReportConfig = Field(default_factory=ReportConfig, description="The report")

    @model_validator(mode="after")
    def _teachers_fit(self) -> RunConfig:
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teachers: the name '{twice[0]}' is used twice; names of teachers must differ")
        if self.voting.quorum is not None and self.voting.quorum > len(names):
            raise ValueError(f"voting.quorum is {self.voting.quorum}, but there are only {len(names)} teachers")
        return self
