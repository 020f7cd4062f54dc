"""One process of a race on a registry: `racer.py ROLE ADDRESS NUMBER ROUNDS SCRATCH`; prints what it did as JSON.

A publisher publishes contents of its own and contents that every publisher publishes; a promoter moves production by
compare-and-swap; a reader pulls whatever is visible and checks every byte.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from lorapar.errors import StaleError
from lorapar.registry import Registry
from lorapar.store import open_store

NAME = "raced"


def package(folder: Path, content: str) -> Path:
    """A folder of two files, whose content is its name many times over."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(content * 5000)
    (folder / "adapter_config.json").write_text(json.dumps({"content": content}))
    return folder


def publish(registry: Registry, number: int, rounds: int, scratch: Path) -> dict[str, int]:
    """By content, the version it got."""
    got = {}
    for place in range(rounds):
        content = f"shared{place}" if place % 2 else f"own{number}-{place}"
        version = registry.publish(NAME, package(scratch / f"{number}-{place}", content))
        registry.set_alias(NAME, "candidate", version.number, reason=f"racer {number}")
        got[content] = version.number
    return got


def promote(registry: Registry, number: int, rounds: int, scratch: Path) -> list[list[int | None]]:
    """Moves that succeeded, from and to."""
    moved, draw = [], random.Random(number)
    while len(moved) < rounds:
        versions = registry.versions(NAME)
        if not versions:
            continue
        record = registry.read_alias(NAME, "production")
        now = record.version if record is not None else None
        to = draw.choice(versions)
        reason = f"racer {number} round {len(moved)}"
        try:
            made = registry.move_alias(NAME, "production", to, expected=now, reason=reason)
        except StaleError:
            continue
        # Another promoter may have moved it there already: that is no move of ours.
        if to != now and made.reason == reason:
            moved.append([now, to])
    return moved


def read(registry: Registry, number: int, rounds: int, scratch: Path) -> int:
    """Versions that were pulled whole; anything half-visible raises."""
    draw, pulled = random.Random(number), 0
    while pulled < rounds:
        versions = registry.versions(NAME)
        if versions:
            registry.pull(f"{NAME}@{draw.choice(versions)}", scratch / f"pulled{number}")
            pulled += 1
    return pulled


if __name__ == "__main__":
    role, address, number, rounds, scratch = sys.argv[1:]
    work = {"publish": publish, "promote": promote, "read": read}[role]
    print(json.dumps(work(Registry(open_store(address)), int(number), int(rounds), Path(scratch))))
