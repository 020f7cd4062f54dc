"""Run the stages in order on this machine, into one run folder, reusing what is finished."""

from lorapar.local.folder import RunFolder, StageRecord
from lorapar.local.preview import PlannedNode, preview
from lorapar.local.runner import run_local

__all__ = ["PlannedNode", "RunFolder", "StageRecord", "preview", "run_local"]
