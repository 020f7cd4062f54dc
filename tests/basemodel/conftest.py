"""A cache of its own for these tests, so that they see what a new machine sees."""

import pytest


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LORAPAR_CACHE", str(folder))
    return folder
