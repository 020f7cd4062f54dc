"""What a task takes from a Secret that is mounted as files: its entries, as variables of this process.

Kubeflow writes every variable that comes from a Secret into the node statuses of a run several times, and Argo packs
these at 1 MiB; a mounted Secret is named once. A file that the platform renews later is not read again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

CREDENTIALS_FOLDER = Path("/run/lorapar")
"""Where the Secret is mounted; nothing is there where the namespace has none."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_OWN = "LORAPAR_"
_OF_THE_STORE = "LORAPAR_S3_"
_NEVER = ("LD_", "PYTHON", "PATH", "HOME")
"""What decides which code runs is no credential; nor is what the pipeline sets itself."""


def load_credentials(folder: Path = CREDENTIALS_FOLDER) -> list[str]:
    """Set a variable for each entry that is named like one and is not set already; returns their names."""
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
