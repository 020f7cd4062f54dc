"""verdict.json: what a gate said about a version, and against which incumbent; and version.json, what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lorapar.records import read_json

VERSION_FILE = "version.json"
VERDICT_FILE = "verdict.json"
PROMOTION_FILE = "promotion.json"


class Incumbent(BaseModel):
    """The version that production named when a candidate was published."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    version: int
    digest: str


class PublishedVersion(BaseModel):
    """version.json: which version a run published, and what it has to beat."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    registry: str
    """Address."""
    name: str
    version: int
    digest: str
    incumbent: Incumbent | None
    """What production named; where that is this very version already, what it named before. None: no version."""
    verification: dict[str, Any] = Field(default_factory=dict)
    """What comparing it with the trained model measured."""

    @property
    def reference(self) -> str:
        """`NAME@3`."""
        return f"{self.name}@{self.version}"


class Verdict(BaseModel):
    """verdict.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    better: bool
    reasons: tuple[str, ...]
    candidate: Incumbent
    """Version and digest that were judged."""
    incumbent: Incumbent | None
    """What it was judged against; None: the base model."""
    settings: dict[str, Any]
    """The section `gate` it was judged by."""
    figures: dict[str, Any]
    """Comparisons and guards, as `lorapar.evaluation.gate.Judged` has them."""


class Promotion(BaseModel):
    """promotion.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    promoted: bool
    reason: str
    alias: str
    version: int
    previous: int | None
    """Version the alias named before."""


def read_published(folder: Path) -> PublishedVersion:
    """The version.json of an artifact."""
    return PublishedVersion.model_validate(read_json(folder / VERSION_FILE))


def read_verdict(folder: Path) -> Verdict:
    """The verdict.json of an artifact."""
    return Verdict.model_validate(read_json(folder / VERDICT_FILE))
