"""Where adapters are published, and what a better one must show: the sections `registry` and `gate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lorapar.config.base import Address, Fraction, Section


class RegistryConfig(Section):
    """The registry that adapters are published into."""

    address: Address | None = Field(
        None, description="s3://BUCKET/PREFIX or a folder; absent: the folder `registry` beside the run folder"
    )


class GateConfig(Section):
    """What an adapter must show against the one in production, or the base where there is none."""

    promote: bool = Field(True, description="Move the alias `production` to a version that is better")
    measures: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("system1", "system2"),
        description="What must gain, all their rows taken together: systems of the held-out rows, or benchmarks",
    )
    rule: Literal["strict", "lenient"] = Field("strict", description="Rule by which an answer counts as right")
    minimum_gain: Fraction = Field(0.0, description="Least gain, as a share of the rows (0.01: one point)")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.95, description="Level of the paired test and of its intervals"
    )
    max_loss: Fraction = Field(0.05, description="Most that any one measure may lose, as a share of its rows")
    max_loss_of: dict[str, Fraction] = Field({}, description="The same for single measures, by name")
    loss_judged_by: Literal["estimate", "interval"] = Field(
        "estimate",
        description="A measure loses too much if the loss measured is above it, or if its interval cannot exclude one",
    )

    @model_validator(mode="after")
    def _measures_differ(self) -> GateConfig:
        """Rows that count twice would make a paired test sure of what it has seen once."""
        twice = sorted({measure for measure in self.measures if self.measures.count(measure) > 1})
        if twice:
            raise ValueError(f"measures: {twice[0]} is named twice; name each once")
        return self
