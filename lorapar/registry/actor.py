"""Who does something to a registry, for its records."""

from __future__ import annotations

import getpass
import os
import socket


def actor() -> str:
    """`user@host`; `LORAPAR_BY` says it better where a service acts for a person."""
    return os.environ.get("LORAPAR_BY") or f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"  # a container's numeric user has no name
