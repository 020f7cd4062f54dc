"""What the report shows: the section `report`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from lorapar.config.base import Section


class ReportConfig(Section):
    """What the report shows."""

    answers: Annotated[int, Field(ge=0)] = Field(10, description="Answers shown before and after, side by side")
    votes: Annotated[int, Field(ge=0)] = Field(20, description="Rows of each label shown in the votes section")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (),
        description="Experiment trackers that show a run on one machine; server and key come from their own variables",
    )

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(trackers)) < len(trackers):
            raise ValueError("names a tracker twice")
        return trackers
