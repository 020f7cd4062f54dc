"""Which adapter is published where, and what a better one must show: the sections `publish`, `registry`, `gate`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lorapar.config.base import Address, Fraction, Section


class RegistryConfig(Section):
    """The registry that adapters are published into."""

    address: Address | None = Field(
        None, description="s3://BUCKET/PREFIX or a folder; absent: the folder `registry` beside the run folder"
    )


class PublishConfig(Section):
    """Which adapter of a run is published: the one that training ended with, or the best by a development split."""

    pick: Literal["last", "best"] = Field(
        "last",
        description="last: the adapter that training ended with; best: an earlier one where that answers more rows of "
        "data.development right, by a paired test",
    )
    candidates: Annotated[int, Field(ge=2, le=20)] = Field(
        4, description="Adapters that pick: best compares and keeps: the last one, and earlier ones at even distances"
    )
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.95, description="Level at which pick: best calls an earlier adapter better, for all its tests together"
    )

    @model_validator(mode="after")
    def _compares_only_the_best(self) -> Self:
        for name in ("candidates", "confidence"):
            if self.pick == "last" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: does nothing where pick is last; leave it out or set pick to best")
        return self


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
    max_loss: Fraction = Field(0.05, description="Largest loss allowed in any one measure, as a share of its rows")
    max_loss_of: dict[str, Fraction] = Field({}, description="The same for single measures, by name")
    loss_judged_by: Literal["estimate", "interval"] = Field(
        "estimate",
        description="A measure loses too much if its loss is above that, or if its interval does not exclude one",
    )

    @model_validator(mode="after")
    def _measures_differ(self) -> Self:
        """Rows that count twice would make a paired test sure of what it has seen once."""
        twice = sorted({measure for measure in self.measures if self.measures.count(measure) > 1})
        if twice:
            raise ValueError(f"measures: {twice[0]} is named twice; name each once")
        return self
