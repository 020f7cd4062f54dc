"""The base model: the section `model`, and the system messages of `prompts`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorapar.config.base import Dtype, Place, Section


class ModelConfig(Section):
    """The base model that is tuned; it is read, never edited."""

    name: Place = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="Hub name, local folder or s3:// address")
    revision: str | None = Field(None, description="Hub branch, tag or commit; `plan` turns it into a commit")
    dtype: Dtype = Field("bfloat16", description="Number format the base weights are held in while tuning")
    autocast: Literal["none", "bfloat16"] = Field("none", description="Format of matrix products in the forward pass")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model (off: refuse it)")
    description: str = Field("a small general language model", description="What teachers are told the target model is")
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
