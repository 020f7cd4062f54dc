"""What `plan` leaves: plan.json. By itself, because who only reads it needs nothing of what settles it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lorapar.config import RunConfig


class Plan(BaseModel):
    """What `plan` settles before anything starts."""

    model_config = ConfigDict(defer_build=True)

    version: str
    created: str
    config: RunConfig
    """The settings with model revision, model digest, data digest and number formats filled in."""
    sections: dict[str, dict[str, Any]]
    """The settings of each node of the graph, parameters included, as JSON."""
    number_format: str | None = None
    """What `auto` came to and why; None where every format is set."""
    benchmark_notes: tuple[str, ...] = ()
    """What there is to say of the rows of benchmarks."""


def read_plan(folder: Path) -> Plan:
    """The plan an earlier call of the stage wrote."""
    return Plan.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))
