"""A temporary directory for one test session, which must be empty when the session ends.

What a stage, a command or a tool leaves in the temporary directory stays on a person's machine for ever. So everything
that the tests start gets this folder as its own; what is left there is named with the test in which it appeared, fails
the session, and is removed. pytest's own folders (`tmp_path`) stay where they were.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

# What PyTorch keeps for a user between compilations; it is meant to stay.
TORCH = "torchinductor_"


class TemporaryFolder:
    """Sets TMPDIR for this process and all that it starts."""

    def __init__(self) -> None:
        # Workers of pytest-xdist inherit the variable, and so lie beside their parent's folder, not in it.
        before = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        # Short: sockets lie in it too, whose paths may have 107 characters.
        self.path = Path(tempfile.mkdtemp(prefix="lt-", dir=before))
        self._seen: dict[str, str] = {}
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.path)

    def look(self, test: str) -> None:
        """Note what is there after a test, and forget what has gone."""
        there = self._names()
        self._seen = {name: self._seen.get(name, test) for name in there}

    def close(self) -> list[str]:
        """Remove the folder; each thing that was left in it, with the test after which it was there first."""
        self.look("the end of the session")
        # This process's own list of authorities goes when it ends, by atexit.
        for made in getattr(sys.modules.get("lorapar.network"), "_made", ()):
            self._seen.pop(Path(made).name, None)
        left = [f"{name} (first seen after {test})" for name, test in sorted(self._seen.items())]
        shutil.rmtree(self.path, ignore_errors=True)
        return left

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if not name.startswith(TORCH))
