"""Where the examples come from: the section `data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lorapar.config.base import Place, Positive, Section


class ColumnMapping(Section):
    """Which column of a data set plays which part."""

    question: str = Field("question", description="Column with the question or instruction")
    context: str | None = Field(None, description="Column with extra input put below the question")
    answer: str = Field("answer", description="Column with the full answer the model learns to write")
    reference: str | None = Field(None, description="Column with the short exact answer used by rewards and accuracy")
    reference_pattern: str | None = Field(
        None,
        description="Regular expression whose first group finds the short answer inside the answer; `boxed`: what the "
        "last \\boxed{} holds",
    )
    messages: str | None = Field(
        None, description="Column with a whole conversation (role and content, or from and value), instead of the two"
    )
    system_message: str | None = Field(None, description="Column with the row's own system message")
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

    source: Place = Field(
        "task-mix",
        description="`task-mix`, a .jsonl/.json/.csv/.tsv/.parquet file or folder (s3:// too), or `hub:OWNER/NAME`",
    )
    revision: str | None = Field(None, description="Hub revision of the data set")
    subset: str | None = Field(None, description="Hub configuration name of the data set")
    split: str = Field("train", description="Hub split to read")
    mapping: str | None = Field(None, description="A ready mapping: gsm8k, dolly, openplatypus, codealpaca")
    columns: ColumnMapping | None = Field(
        None, description="A mapping of your own; wins over `mapping`. Without both, columns are recognised"
    )
    limit: Positive | None = Field(None, description="Read at most this many rows")
    bad_rows: Literal["refuse", "leave_out"] = Field(
        "refuse", description="Rows without a question or answer, and repeated questions: an error, or left out"
    )
    heldout: Annotated[float, Field(ge=0.0)] = Field(
        0.1,
        description="Rows held out: a share below 1, a number from 1 on; a run refuses 0",
    )
    task_mix: TaskMixConfig = Field(default_factory=TaskMixConfig, description="Sizes, where the source is task-mix")
    digest: str | None = Field(None, description="sha256 of what the source holds; filled in by `plan`")
