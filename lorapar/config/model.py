"""The base model: the section `model`, and the system messages of `prompts`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lorapar.config.base import SYSTEMS, Dtype, Place, Section, unless_default
from lorapar.config.tags import TagsConfig

_MADE_BY_ASKING = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def _template(text: str) -> str:
    """The template itself; a file is read at once, so that its text and not its place decides what is computed."""
    if "{" in text:
        return text
    try:
        found = Path(text).expanduser().read_text(encoding="utf-8-sig")  # some editors write a mark first
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"'{text}' is neither a Jinja template nor a file that can be read ({why})") from None
    if "{" not in found:
        raise ValueError(f"'{text}' holds no Jinja template")
    return found


def _options(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    strange = next((name for name in values if not (name.isascii() and name.isidentifier())), None)
    if strange is not None:
        raise ValueError(f"'{strange}' is no name that a template can read; write letters, digits and _")
    taken = next((name for name in values if name in _MADE_BY_ASKING), None)
    if taken is not None:
        raise ValueError(f"'{taken}' is no option of a template: it is what the template is asked with")
    return values


class AdapterSource(Section):
    """What `plan` found `model.adapter` to be, so that every task takes the same."""

    registry: str | None = Field(None, description="Address of its registry; absent: the run's own")
    version: int | None = Field(None, description="Its version there")
    revision: str | None = Field(None, description="Its commit on the hub")
    digest: str | None = Field(None, description="sha256 identity of its files")
    rank: int | None = Field(None, description="Its LoRA rank")


class ModelConfig(Section):
    """The base model that is tuned; it is read, never edited."""

    name: Place = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="Hub name, local folder or s3:// address")
    revision: str | None = Field(None, description="Hub branch, tag or commit; `plan` turns it into a commit")
    dtype: Dtype = Field(
        "auto",
        description="Number format the base weights are held in while tuning; auto: bfloat16 where the processor "
        "computes it natively and no slower than float32, else float32",
    )
    autocast: Literal["auto", "none", "bfloat16"] = Field(
        "none",
        description="Format of matrix products in the forward pass; auto: bfloat16 where the processor computes it "
        "natively and no slower than float32, else none",
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none",
        description="Hold the weights of linear layers in 8 or 4 bits by bitsandbytes (the extra `quantized`); "
        "embeddings, norms and the output head stay in `dtype`",
    )
    double_quantization: bool | None = Field(
        None, description="nf4: quantise the constants of the blocks, too, 0.4 bits less a weight; absent: true"
    )
    compute_dtype: Dtype = Field(
        "auto", description="nf4: number format that matrix products with its weights are done in; auto: `dtype`"
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model (off: refuse it)")
    description: str = Field(
        "a small general language model", description="What the prompts of teachers say about the target model"
    )
    chat_template: Annotated[str, AfterValidator(_template)] | None = Field(
        None, description="File with a Jinja chat template, or its text; absent: the model's own"
    )
    chat_template_kwargs: Annotated[dict[str, JsonValue], AfterValidator(_options)] = Field(
        default_factory=dict, description="Options of the chat template, such as enable_thinking: false"
    )
    digest: str | None = Field(None, description="sha256 identity of the weights; filled in by `plan`")
    adapter: Place | None = Field(
        None,
        description="Adapter to go on from, held frozen beside the new one: NAME@production or NAME@VERSION of the "
        "registry, a PEFT folder, its s3:// address, or a hub name (OWNER/NAME@REVISION)",
    )
    continue_: bool = Field(
        False, alias="continue", description="Train the elements of `model.adapter` further instead of adding new ones"
    )
    adapter_source: AdapterSource | None = Field(None, description="What `adapter` is; filled in by `plan`")

    @model_validator(mode="after")
    def _something_to_continue(self) -> Self:
        if self.continue_ and self.adapter is None:
            raise ValueError("continue is true, but there is no model.adapter to continue; name one")
        return self

    @model_validator(mode="after")
    def _something_to_quantise(self) -> Self:
        for key, is_set in (
            ("double_quantization", self.double_quantization is not None),
            ("compute_dtype", self.compute_dtype != "auto"),
        ):
            if is_set and self.quantization != "nf4":
                raise ValueError(f"{key} is a choice of quantization nf4, not of {self.quantization}; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """By the names of the settings, and without what is not asked for: so digests stay as they were."""
        values = unless_default(self, handler(self), *_QUANTIZED)
        going_on = {"continue" if key == "continue_" else key: values.pop(key, None) for key in _GOING_ON}
        return values | {key: value for key, value in going_on.items() if value}

    @property
    def full(self) -> Self:
        """The model as its files have it, in `dtype` and not quantised."""
        return self.model_copy(update={key: type(self).model_fields[key].default for key in _QUANTIZED})

    @property
    def quantization_text(self) -> str | None:
        """How the base is held, as people are told; None for one that is not quantised."""
        if self.quantization != "nf4":
            return None if self.quantization == "none" else self.quantization
        double = " with double quantisation" if self.double_quantization is not False else ""
        return f"nf4{double}, computed in {self.dtype if self.compute_dtype == 'auto' else self.compute_dtype}"

    @property
    def alone(self) -> Self:
        """The base model without an adapter to go on from: what every stage but `init` and `publish` works with."""
        return self.model_copy(update={"adapter": None, "continue_": False, "adapter_source": None})

    @property
    def adapter_text(self) -> str:
        """The adapter to go on from, as people are told: with the version or commit that `plan` found."""
        found = self.adapter_source or AdapterSource()
        exact = found.version or found.revision
        return f"{str(self.adapter).partition('@')[0]}@{exact}" if exact else str(self.adapter)


_QUANTIZED = ("quantization", "double_quantization", "compute_dtype")
_GOING_ON = ("adapter", "continue_", "adapter_source")


_STEP_BY_STEP = "Think step by step. Reply exactly as {}."


class PromptConfig(Section):
    """What stands before a question when the target model is asked."""

    system1: str | None = Field(None, description="System message of System 1 rows")
    system2: str | None = Field(
        _STEP_BY_STEP.format(TagsConfig().example),
        description="System message of System 2 rows; the default one names the tags below",
    )
    tags: TagsConfig = Field(default_factory=TagsConfig, description="Tags around steps and result")
    messages: dict[str, str | None] = Field(
        {}, description="System message of the rows of each named system; filled in from `systems`"
    )

    def message_for(self, system: str | None) -> str | None:
        """The system message of rows of `system`; rows without a system are asked like System 1."""
        if system in self.messages:
            return self.messages[system]
        if system != "system2":
            return self.system1
        default = self.system2 == type(self).model_fields["system2"].default
        return self.step_by_step if default else self.system2

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems whose rows are asked."""
        return tuple(self.messages) or SYSTEMS

    @property
    def step_by_step(self) -> str:
        """The message that asks for steps and an answer in the tags."""
        return _STEP_BY_STEP.format(self.tags.example)

    def answers_in_tags(self, system: str) -> bool:
        """Whether an answer must be in tags to be right: those of System 2, and where a message names the tags."""
        if system not in self.messages:
            return system != "system1"
        return self.tags.answer is not None and self.tags.answer[0] in (self.messages[system] or "")

    @property
    def reasoning_system(self) -> str:
        """The system whose rows are asked for steps: System 2, or the first of your own; the last where none is."""
        return next((system for system in self.systems if self.answers_in_tags(system)), self.systems[-1])

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "tags", "messages")
