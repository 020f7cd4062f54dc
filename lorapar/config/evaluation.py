"""How adapters are compared: the section `evaluate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lorapar.config.base import Positive, Section


class EvaluateConfig(Section):
    """Held-out scores of base, after SFT and after RL."""

    limit: Positive | None = Field(None, description="Rows of each system that are evaluated; absent: all held-out")
    batch_size: Positive = Field(32, description="Rows generated for at once")
    max_new_tokens: Positive = Field(256, description="Longest answer in tokens")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="Level of the intervals")
