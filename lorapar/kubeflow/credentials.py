"""A task's credentials: the entries of a Secret that is mounted as files, as variables of this process.

Kubeflow writes every variable that comes from a Secret into a run's node statuses several times, and Argo packs these
at 1 MiB. A mounted Secret is named once. A file that the platform renews later is not read again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

CREDENTIALS_FOLDER = Path("/run/lorapar")
"""Where the Secret is mounted; empty if the namespace has none."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_OWN = "LORAPAR_"
_OF_THE_STORE = "LORAPAR_S3_"
_NEVER = ("LD_", "PYTHON", "PATH", "HOME")
"""Variables that decide which code runs, or that the pipeline sets itself, are not credentials."""


def load_credentials(folder: Path = CREDENTIALS_FOLDER) -> list[str]:
    """Set a variable for each entry whose name can be one and is not set yet; returns their names."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name
        own = name.startswith(_OWN) and not name.startswith(_OF_THE_STORE)
        if not _VARIABLE.fullmatch(name) or name.startswith(_NEVER) or own or name in os.environ:
            continue
        text = path.read_text(encoding="utf-8").strip()
        if text:
            os.environ[name] = text
            found.append(name)
    return found
