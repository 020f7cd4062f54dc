"""The cluster resources of a task, as a package passes them to `plan`: a value with a JSON and a readable form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar.errors import BadInputError


class Takes(BaseModel):
    """Accelerators of a task's own pod, or of each node where a TrainJob trains on several."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    count: int = Field(0, ge=0)
    """Accelerators of the pod, or of each node."""
    accelerator: str = "nvidia.com/gpu"
    nodes: int = Field(1, ge=1)
    processes: int = Field(1, ge=1)
    """Processes on each node."""

    def text(self) -> str:
        """For people: `1 nvidia.com/gpu`, `2 nodes x 4 processes, 4 nvidia.com/gpu each`; empty where it takes none."""
        held = f"{self.count} {self.accelerator}" if self.count else ""
        if self.nodes == 1:
            return held
        return f"{self.nodes} nodes x {self.processes} processes{f', {held} each' if held else ''}"

    def dump(self) -> dict[str, Any]:
        """The JSON form that `read_takes` reads."""
        return self.model_dump(exclude_defaults=True)


def read_takes(parameter: object) -> dict[str, Takes]:
    """What tasks take, by task, from the parameter `accelerators` of the task `plan`; raises BadInputError."""
    given = parameter if isinstance(parameter, Mapping) else {"": parameter}
    try:
        return {str(task): Takes.model_validate(value) for task, value in given.items()}
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "a value"
        raise BadInputError(
            f"accelerators: {where}: {problem['msg']}; the package says it: the package and the image of `plan` must "
            "be of the same version of lorapar"
        ) from None
