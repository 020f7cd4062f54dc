"""What generated code must not be able to do, tried from inside when a sandbox starts: the guarantees are measured.

Each attempt is Python source that succeeds where the sandbox does NOT protect; {parent} and {outside} are filled in.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

ATTEMPTS = {
    "read a file outside its scratch folder": "open({outside!r}).read()",
    "write a file outside its scratch folder": "open({outside!r}, 'a').close()",
    "list the root folder": "os.listdir('/')",
    "read its parent's environment": "open('/proc/{parent}/environ', 'rb').read()",
    "signal another process": "os.kill({parent}, 0)",
    "start a process": "os._exit(0) if os.fork() == 0 else os.wait()",
    "open a socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "open a local socket": "socket.socketpair()",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "take more memory than it may": "bytearray({memory_bytes})",
}


def program(outside: Path, parent: int, memory_bytes: int) -> str:
    """A program that tries everything and prints, as JSON, what it managed; also that its scratch folder works."""
    values = {"outside": str(outside), "parent": parent, "memory_bytes": memory_bytes}
    lines = ["import json, os, resource, socket", "managed = []"]
    for name, source in ATTEMPTS.items():
        lines += ["try:", f"    {source.format(**values)}", f"    managed.append({name!r})"]
        lines += ["except (OSError, ValueError, MemoryError):", "    pass"]
    lines += ["with open('note.txt', 'w') as file:", "    file.write('x')", "print(json.dumps(managed))"]
    return "\n".join(lines)


def managed(printed: str) -> list[str]:
    """What the program says it managed."""
    return [str(name) for name in json.loads(printed)]


def outside_file(place: Path) -> Path:
    """A file that everybody may read and write by its mode, so that only the sandbox stands before it."""
    path = place / "outside"
    path.write_text("outside")
    os.chmod(path, 0o666)  # noqa: S103
    return path
