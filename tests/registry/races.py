"""Start racers, wait for them, and check that nothing was lost, doubled or seen half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorapar.registry import Registry

RACER = Path(__file__).with_name("racer.py")
NAME = "raced"


def race(
    address: str, scratch: Path, *, rounds: int, environments: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[Any]]:
    """Two publishers, two promoters and a reader at once, by role; `environments` are additions by role."""
    roles = ["publish", "publish", "promote", "promote", "read"]
    started = []
    for number, role in enumerate(roles):
        extra = dict((environments or {}).get(role, {}))
        command = [sys.executable, str(RACER), role, address, str(number), str(rounds), str(scratch)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **extra}
        )
        started.append((role, process))
    message: dict[str, list[Any]] = {}
    for role, process in started:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, f"{role}: {errors}"
        message.setdefault(role, []).append(json.loads(output))
    return message


def check_race(registry: Registry, done: Mapping[str, list[Any]], scratch: Path) -> None:
    """Every content has one version and every version one content; every move that succeeded is in the history."""
    one, other = done["publish"]
    shared = set(one) & set(other)
    assert shared
    assert {content: one[content] for content in shared} == {content: other[content] for content in shared}
    versions = {**one, **other}
    assert sorted(versions.values()) == registry.versions(NAME)
    assert len(set(versions.values())) == len(versions)
    for content, number in versions.items():
        registry.pull(f"{NAME}@{number}", scratch / "checked")
        assert json.loads((scratch / "checked" / "adapter_config.json").read_text()) == {"content": content}
    moves = registry.read_alias(NAME, "production").moves
    went = [
        [before.version if before else None, move.version] for before, move in zip((None, *moves), moves, strict=False)
    ]
    assert sorted(went, key=str) == sorted((move for mover in done["promote"] for move in mover), key=str)
    candidates = [move.version for move in registry.read_alias(NAME, "candidate").moves]
    assert set(candidates) == set(versions.values())
    assert all(pulled > 0 for pulled in done["read"])
