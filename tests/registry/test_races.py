"""Several processes on one registry in a folder; tests/integration/registry does the same on a real S3 server."""

from __future__ import annotations

from lorapar.registry import Registry
from lorapar.store import open_store
from tests.registry.races import check_race, race


def test_publishers_promoters_and_readers_at_once_lose_nothing(tmp_path) -> None:
    message = race(str(tmp_path / "registry"), tmp_path / "scratch", rounds=6)
    check_race(Registry(open_store(tmp_path / "registry")), message, tmp_path / "scratch")
