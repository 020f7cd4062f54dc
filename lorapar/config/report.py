"""What the report shows: the section `report`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lorapar.config.base import Section


class ReportConfig(Section):
    """What the report shows."""

    answers: Annotated[int, Field(ge=0)] = Field(10, description="Answers shown before and after, side by side")
    votes: Annotated[int, Field(ge=0)] = Field(20, description="Rows of each label shown in the votes section")
