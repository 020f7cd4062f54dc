"""How unfinished work is kept: the section `checkpoint`."""

from typing import Annotated

from pydantic import Field

from lorapar.config.base import Positive, Section


class CheckpointConfig(Section):
    """Unfinished work, kept so that a stage that is stopped goes on where it was."""

    interval_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        60.0, description="Seconds between two checkpoints, and about the most work that is lost; 0: after every step"
    )
    keep: Positive = Field(2, description="Checkpoints of a stage that are kept; older ones are removed")
