"""The base model: the section `model`, and the system messages of `prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from lorapar.config.base import Dtype, Place, Section

_MADE_BY_ASKING = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def _template(text: str) -> str:
    """The template itself; a file is read at once, so that its text and not its place decides what is computed."""
    if "{" in text:
        return text
    try:
        found = Path(text).expanduser().read_text(encoding="utf-8")
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


class ModelConfig(Section):
    """The base model that is tuned; it is read, never edited."""

    name: Place = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="Hub name, local folder or s3:// address")
    revision: str | None = Field(None, description="Hub branch, tag or commit; `plan` turns it into a commit")
    dtype: Dtype = Field(
        "auto",
        description="Number format the base weights are held in while tuning; auto: bfloat16 where the processor "
        "computes it natively, else float32",
    )
    autocast: Literal["auto", "none", "bfloat16"] = Field(
        "none",
        description="Format of matrix products in the forward pass; auto: bfloat16 where the processor computes it "
        "natively, else none",
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model (off: refuse it)")
    description: str = Field("a small general language model", description="What teachers are told the target model is")
    chat_template: Annotated[str, AfterValidator(_template)] | None = Field(
        None, description="File with a Jinja chat template, or its text; absent: the model's own"
    )
    chat_template_kwargs: Annotated[dict[str, JsonValue], AfterValidator(_options)] = Field(
        default_factory=dict, description="Options of the chat template, such as enable_thinking: false"
    )
    digest: str | None = Field(None, description="sha256 identity of the weights; filled in by `plan`")


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
