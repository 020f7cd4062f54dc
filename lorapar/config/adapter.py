"""The LoRA adapter, what each element is worth, and who may train it: `adapter`, `score`, `partition`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lorapar.config.base import Fraction, Positive, Rate, Section


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
