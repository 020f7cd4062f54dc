"""Peak resident memory of a stage that runs in this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Start a new measurement; where the system cannot, peaks include what earlier stages used."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


def peak_bytes() -> int:
    """Peak resident memory since `reset_peak`, in bytes."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
