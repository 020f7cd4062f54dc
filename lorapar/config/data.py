"""Where the examples come from: the section `data`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lorapar.config.base import SYSTEMS, Place, Positive, Rate, Section, unless_default
from lorapar.config.capture import CaptureSource
from lorapar.config.evaluation import BenchmarkConfig

TASK_MIX = "task-mix"
CAPTURE = "capture:"
"""How a source begins that is what a server kept of its requests; its name follows."""


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
    tests: str | None = Field(
        None, description="Column with Python tests that an answer's code has to pass: a text or a list of them"
    )
    system: str | None = Field(None, description="Column with the known system of a row, where there is one")
    id: str | None = Field(None, description="Column with a row's name; a digest of its text where absent")


class TaskMixConfig(Section):
    """Sizes of the project's own generated data."""

    system1_train: Positive = Field(128, description="System 1 rows to train on")
    system1_heldout: Positive = Field(64, description="System 1 rows held out for evaluation")
    system2_train: Positive = Field(128, description="System 2 rows to train on")
    system2_heldout: Positive = Field(64, description="System 2 rows held out for evaluation")


class SourceConfig(Section):
    """One of several sources."""

    source: Place = Field(
        description="A file, folder, s3:// address, `hub:OWNER/NAME` or `capture:NAME`, as data.source"
    )
    weight: Rate | None = Field(
        None, description="Share of the rows against the other sources' weights; absent everywhere: all rows"
    )
    revision: str | None = Field(None, description="Hub revision of the data set")
    subset: str | None = Field(
        None, description="Configuration of the data set: of the hub, or of a folder whose README.md names some"
    )
    split: str = Field(
        "train", description="Split to read, of the hub or of a folder with files by split; `a+b` reads two, `all` all"
    )
    mapping: str | None = Field(None, description="A ready mapping, as data.mapping")
    columns: ColumnMapping | None = Field(None, description="A mapping of your own, as data.columns")
    limit: Positive | None = Field(None, description="Read at most this many rows of this source")


class LengthConfig(Section):
    """Rows that are too short or too long, by all that is asked and answered; those outside are left out."""

    min_characters: Positive | None = Field(None, description="Fewest characters")
    max_characters: Positive | None = Field(None, description="Most characters")
    min_tokens: Positive | None = Field(None, description="Fewest tokens of the model, its chat template aside")
    max_tokens: Positive | None = Field(None, description="Most tokens of the model, its chat template aside")

    @property
    def in_tokens(self) -> bool:
        """Whether a limit is in tokens, so that a tokenizer is needed."""
        return self.min_tokens is not None or self.max_tokens is not None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for unit in ("characters", "tokens"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} is {least} and max_{unit} {most}, so no row could be kept")
        return self


class DataConfig(Section):
    """Where the examples come from."""

    source: Place = Field(
        TASK_MIX,
        description="`task-mix`, a .jsonl/.json/.csv/.tsv/.parquet file or folder (s3:// too), `hub:OWNER/NAME`, or "
        "`capture:NAME`, what a server kept of its requests",
    )
    sources: tuple[SourceConfig, ...] = Field((), description="Several sources, instead of `source`")
    revision: str | None = Field(None, description="Hub revision of the data set")
    subset: str | None = Field(
        None, description="Configuration of the data set: of the hub, or of a folder whose README.md names some"
    )
    split: str = Field(
        "train", description="Split to read, of the hub or of a folder with files by split; `a+b` reads two, `all` all"
    )
    mapping: str | None = Field(None, description="A ready mapping: gsm8k, dolly, openplatypus, codealpaca")
    columns: ColumnMapping | None = Field(
        None, description="A mapping of your own; wins over `mapping`. Without both, columns are recognised"
    )
    limit: Positive | None = Field(None, description="Read at most this many rows")
    bad_rows: Literal["refuse", "leave_out"] = Field(
        "refuse", description="Rows without a question or answer, and repeated questions: an error, or left out"
    )
    length: LengthConfig = Field(default_factory=LengthConfig, description="Rows kept by their length")
    decontaminate: bool = Field(
        True,
        description="Leave training rows out whose question shares 13 words in a row with held-out rows or a benchmark "
        "of evaluate; off: only say how many",
    )
    heldout: Annotated[float, Field(ge=0.0)] = Field(
        0.1,
        description="Rows held out: a share below 1, a number from 1 on; a run refuses 0",
    )
    development: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Rows set apart from training and from those held out, which publish.pick: best is judged by: a "
        "share below 1, a number from 1 on",
    )
    task_mix: TaskMixConfig = Field(default_factory=TaskMixConfig, description="Sizes, where the source is task-mix")
    capture: CaptureSource = Field(
        default_factory=CaptureSource, description="How a source `capture:NAME`, what a server kept, becomes rows"
    )
    digest: str | None = Field(None, description="sha256 of what the source holds; filled in by `plan`")
    benchmarks: tuple[BenchmarkConfig, ...] = Field(
        (), description="Benchmarks that rows are compared with; filled in by `plan` from evaluate.benchmarks"
    )
    systems: tuple[str, ...] = Field(
        SYSTEMS, description="Names that a column with the true system may hold; filled in from `systems`"
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "systems", "development", "capture")

    @model_validator(mode="after")
    def _capture_is_read(self) -> Self:
        if self.capture != CaptureSource() and not self.has_capture:
            raise ValueError(f"capture: does nothing without a source {CAPTURE}NAME; leave it out, or name one")
        return self

    @model_validator(mode="after")
    def _one_way_of_naming_sources(self) -> Self:
        if not self.sources:
            return self
        set_too = [name for name in ("revision", "subset", "mapping", "columns") if getattr(self, name) is not None]
        set_too += ["split"] if self.split != "train" else []
        if self.source != TASK_MIX:
            raise ValueError(f"source is {self.source}, and sources names others; set source to {TASK_MIX} with them")
        if set_too:
            raise ValueError(f"{set_too[0]}: does nothing beside sources; name it in each of them and set it to null")
        weighed = [one.weight is not None for one in self.sources]
        if any(weighed) and not all(weighed):
            lacking = self.sources[weighed.index(False)].source
            raise ValueError(f"sources: {lacking} has no weight, and others have; give each one or none")
        named = [(one.source, one.subset, one.split) for one in self.sources]
        for place, one in enumerate(named):
            if one[0] == TASK_MIX:
                raise ValueError(f"sources: {TASK_MIX} brings its own split and stands alone, as data.source")
            if one in named[:place]:
                raise ValueError(f"sources: {one[0]} is named twice; name each once, with a larger weight")
        return self

    @property
    def parts(self) -> tuple[Self, ...]:
        """Each source as if it were the only one."""
        if not self.sources:
            return (self,)
        return tuple(
            self.model_copy(update={"sources": (), **{name: getattr(one, name) for name in _OF_A_SOURCE}})
            for one in self.sources
        )

    @property
    def has_capture(self) -> bool:
        """Whether a source is what a server kept of its requests."""
        return any(name.startswith(CAPTURE) for name in (self.source, *(one.source for one in self.sources)))

    @property
    def may_name_systems(self) -> bool:
        """Whether rows may have a column with their system; unknown counts as yes, where columns are recognised."""
        if self.named == TASK_MIX:
            return True
        return any(part.columns.system is not None if part.columns else part.mapping is None for part in self.parts)

    @property
    def named(self) -> str:
        """The sources as they are shown."""
        return ", ".join(part.source for part in self.parts)


_OF_A_SOURCE = ("source", "revision", "subset", "split", "mapping", "columns", "limit")
