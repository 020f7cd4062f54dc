"""Several processes on one registry in a folder; tests/integration/registry does the same on a real S3 server."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lorapar.registry import Registry
from lorapar.store import open_store


def load_races():
    """The module beside this one; test files are no package."""
    spec = importlib.util.spec_from_file_location("races", Path(__file__).with_name("races.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_publishers_promoters_and_readers_at_once_lose_nothing(tmp_path) -> None:
    races = load_races()
    said = races.race(str(tmp_path / "registry"), tmp_path / "scratch", rounds=6)
    races.check_race(Registry(open_store(tmp_path / "registry")), said, tmp_path / "scratch")
