"""Run a command that says `[1/18] NODE: done`, and print its seconds by node and its peak memory as JSON.

`python timed_run.py COMMAND...`. It imports little, because a process begins with the peak memory of what started it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

DONE = re.compile(r"^\[\d+/\d+\] ([\w-]+): done ")
KEPT = 30
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Of a running process with all its threads, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def timed(command: list[str]) -> dict[str, object]:
    """Wall and processor seconds by node and of all; the peak is that of the largest process."""
    began = time.monotonic()
    last = (0.0, 0.0)
    nodes: dict[str, tuple[float, float]] = {}
    lines: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        lines = [*lines[1 - KEPT :], line]
        if found := DONE.match(line):
            now = (time.monotonic() - began, processor_seconds(process.pid))
            nodes[found[1]] = (now[0] - last[0], now[1] - last[1])
            last = now
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit("".join(lines))
    return {
        "wall": time.monotonic() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "gigabytes": used.ru_maxrss * 1024 / 1e9,
        "nodes": nodes,
    }


if __name__ == "__main__":
    print(json.dumps(timed(sys.argv[1:])))
