"""execute: what needs running before it can be scored; an evaluation without generated code passes through as it is."""

from __future__ import annotations

import shutil

from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.store import MANIFEST


class Settings(StageSettings):
    """None: what is run is named in the evaluation."""


SPEC = StageSpec(
    name="execute",
    summary="score generated code; everything else passes through",
    settings=Settings,
    inputs=("evaluation",),
    outputs=("evaluation",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Copy the evaluation: no benchmark of this version generates code."""
    ignored = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(call.input("evaluation"), call.output("evaluation"), dirs_exist_ok=True, ignore=ignored)
    return {"executed_samples": 0.0}
