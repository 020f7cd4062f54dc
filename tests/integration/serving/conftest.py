"""One vLLM server for all tests of this folder: it follows two adapters of a registry in S3, with a role that reads.

Starting it takes most of the time, so the tests share it, and they run in the order of their files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorapar.capture import Capture
from lorapar.registry import Registry
from lorapar.serving import server_command
from lorapar.store import open_store
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server
from tests.integration.serving.adapters import make_adapter
from tests.integration.serving.vllm_server import PYTHON, VllmServer

POLL_SECONDS = 0.5


@dataclass
class Site:
    """A server, the registry it follows, and the folders its versions were made of."""

    vllm: VllmServer
    registry: Registry
    made: dict[str, Path]
    """By version, as NAME@VERSION."""
    kept: Capture
    """What the server keeps of its traffic: all of it."""

    def wait_until(self, what: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"it did not come to that:\n{self.vllm.log_text()[-3000:]}"
            time.sleep(0.05)

    def answering(self, model: str) -> str | None:
        """The version that a model's name means now."""
        return self.vllm.complete(model, "?", max_tokens=1).adapter

    def promote(self, version: int, name: str = "task") -> None:
        """Move `production`, and wait until the server has followed."""
        self.registry.set_alias(name, "production", version)
        self.wait_until(lambda: self.answering(name) == f"{name}@{version}")


@pytest.fixture(scope="session")
def site(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not PYTHON.exists():
        pytest.skip("vLLM has an environment of its own: make vllm-env")
    root = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        use_identity(patch, s3_server.environment())
        s3_server.client().create_bucket(Bucket="serving")
        registry = Registry(open_store("s3://serving/registry"))
        made = {}
        for seed, version in enumerate(("task@1", "task@2", "task@3", "other@1", "other@2", "other@3"), 1):
            made[version] = make_adapter(root / f"made{seed}", seed)
            assert str(registry.publish(version.partition("@")[0], made[version])) == version
        registry.set_alias("task", "production", 1)
        registry.set_alias("task", "candidate", 2)
        registry.set_alias("other", "production", 1)
        # A slot for each alias and one more: less than `lorapar serve` gives two adapters, and enough.
        slots = ("--max-loras", "4")
        kept = json.dumps({"name": "kept", "share": 1.0, "address": str(root / "store"), "flush_seconds": 0.5})
        command = server_command(registry, ["task", "task@candidate", "other"], extra=slots, capture=kept)
        vllm = VllmServer(command, root)
        ours = {"LORAPAR_SERVING_CACHE": str(root / "cache"), "LORAPAR_SERVING_POLL_SECONDS": str(POLL_SECONDS)}
        try:
            vllm.start({**s3_server.environment("reader"), **ours})
            yield Site(vllm, registry, made, Capture(open_store(str(root / "store")), "kept"))
        finally:
            vllm.stop()
