"""Programs that a sandbox is tried with: files of `programs/`, whose first line says how each must end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorapar.evaluation.sandbox import Limits

PROGRAMS = Path(__file__).parent / "programs"
# The wall clock is generous: on a machine with busy cores starting the interpreter alone can take a second.
LIMITS = Limits(
    wall_seconds=8,
    cpu_seconds=2,
    memory_bytes=256 << 20,
    processes=8,
    file_bytes=8 << 20,
    scratch_bytes=16 << 20,
    output_bytes=32 << 10,
)


@dataclass(frozen=True)
class Target:
    """What hostile programs aim at; `fill` puts it into their source."""

    secret: Path
    port: int

    def fill(self, source: str, warden: int | None) -> str:
        """The source with its targets named; the warden only where it is known already."""
        values = {
            "@SECRET@": str(self.secret),
            "@STAGE@": str(os.getpid()),
            "@WARDEN@": "@WARDEN@" if warden is None else str(warden),
            "@HOME@": os.path.expanduser("~"),
            "@PORT@": str(self.port),
        }
        for name, value in values.items():
            source = source.replace(name, value)
        return source


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A token that anybody may read by its mode, and a server that would answer."""
    secret = tmp_path_factory.mktemp("secret") / "token"
    secret.write_text("a secret that only the sandbox guards")
    secret.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Target(secret, server.getsockname()[1])
    assert secret.read_text() == "a secret that only the sandbox guards"
    assert secret.stat().st_mode & 0o777 == 0o666


@pytest.fixture(scope="session")
def limits() -> Limits:
    """Small ones, so that passing them takes no time."""
    return LIMITS


@pytest.fixture(scope="session")
def programs() -> dict[str, tuple[str, str]]:
    """By name: how the program must end (status and a pattern of its detail), and its source."""
    found = {}
    for path in sorted(PROGRAMS.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        found[path.stem] = (source.splitlines()[0].removeprefix("# expect: "), source)
    return found
