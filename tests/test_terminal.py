"""What a stage says while it works, where nobody reads it any more."""

from __future__ import annotations

import os

from lorapar.terminal import LineProgress


def test_a_closed_output_pipe_ends_no_stage() -> None:
    """Kubeflow's launcher reads a task's output and ends at once at SIGTERM; what was done has still to be saved."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as pipe:
        progress = LineProgress("rl:", pipe)
        progress.log("step 1")
        os.close(reading)
        progress.log("saving")
        progress.start("the next piece", 3)
        progress.log("saved")
        assert progress._nobody_reads
