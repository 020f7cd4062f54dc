"""The LoRA adapter, what each element is worth, and who may train it: `adapter`, `score`, `partition`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lorapar.config.base import Fraction, Positive, Rate, Section
from lorapar.errors import nearest

ROLES = "QKVOGUD"
"""Query, key, value and output of attention; gate, up and down of the MLP."""
BYTES_AN_ELEMENT = 10
"""What the optimiser keeps of an element that it trains: two float32 moments, and two bytes of index."""
PAPER_LAYOUTS = ("QKVGUD", "QKV", "GUD")


def _layout(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, tuple):
        if not value or not all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in value):
            raise ValueError("a list holds module names such as q_proj or mlp.c_proj, at least one")
        return tuple(dict.fromkeys(value))
    if re.fullmatch(r"[A-Z]+", value):
        if set(value) - set(ROLES) or len(set(value)) < len(value):
            raise ValueError(
                f"'{value}'{nearest(value, list(PAPER_LAYOUTS))}: choose each at most once of the letters {ROLES}, "
                "as in QKVGUD; or all-linear; or a list of module names"
            )
        return "".join(letter for letter in ROLES if letter in value)
    if re.fullmatch(r"[A-Za-z_]\w*", value):
        return (value,)  # one module's name
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"'{value}' is no regular expression: {error}") from None
    return value


Layout = Annotated[str | tuple[str, ...], AfterValidator(_layout)]


class AdapterConfig(Section):
    """The LoRA adapter; defaults follow the paper, but for the start."""

    rank: Positive = Field(8, description="Rank r of the trainable LoRA factors")
    alpha: Rate = Field(64.0, description="lora_alpha; the update is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.05, description="LoRA dropout while training")
    layout: Layout = Field(
        "QKVGUD",
        description="What carries LoRA: roles (letters of QKVOGUD), `all-linear`, module names, or a regular "
        "expression for whole module paths",
    )
    init: Literal["residual", "paper", "pissa", "olora"] = Field("residual", description="How A and B start")


Measure = Literal["gradient", "magnitude"]
"""What an element may be ranked by beside importance: its mean gradient, or its value; both without their sign."""


class ScoreConfig(Section):
    """Importance of every element (paper section 3.2)."""

    examples: Positive = Field(100, description="Rows of each system that are scored")
    batch_size: Positive = Field(1, description="Rows in one forward pass; the scores do not depend on it")
    max_length: Positive = Field(512, description="Longest row in tokens; longer rows are cut at the end")
    also: tuple[Measure, ...] = Field(
        (), description="Kept beside importance, for partition.choose: gradient, magnitude"
    )


class PartitionConfig(Section):
    """Which elements each system may train (paper section 3.3)."""

    theta: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.9, description="Share of the total importance kept")
    alpha: Fraction = Field(1.0, description="Share of the shared elements that SFT on System 1 may train")
    beta: Fraction = Field(1.0, description="Share of the shared elements that RL on System 2 may train")
    budget_elements: Positive | None = Field(
        None, description="Elements in each system's set, the most important ones; theta then decides nothing"
    )
    budget_bytes: Annotated[int, Field(ge=BYTES_AN_ELEMENT)] | None = Field(
        None, description="The same by the bytes that the optimiser keeps of them in each stage: 10 an element"
    )
    choose: Literal["importance", "random", "gradient", "magnitude"] = Field(
        "importance",
        description="By importance; or as a control as many elements in each region drawn at random with `seed`, or as "
        "many in each set by gradient or magnitude (with score.also)",
    )
    mask: Literal["both", "sft", "rl", "none"] = Field(
        "both", description="Which stage trains its own elements only; one that is not masked trains all of the adapter"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> PartitionConfig:
        if self.budget_elements is not None and self.budget_bytes is not None:
            raise ValueError("budget_elements and budget_bytes: give one of the two")
        return self

    @property
    def budget(self) -> int | None:
        """Most elements in a system's set; None where theta decides."""
        return self.budget_elements if self.budget_bytes is None else self.budget_bytes // BYTES_AN_ELEMENT
