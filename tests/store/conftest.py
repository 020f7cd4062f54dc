"""A store in a local folder, and a sealed folder to put into it."""

import pytest

from lorapar.store import open_store, seal


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def tree(tmp_path):
    """A sealed folder of four files, two of them with equal bytes, one empty."""
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "deep" / "twin.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    (folder / "empty").touch()
    seal(folder, "test.tree")
    return folder
