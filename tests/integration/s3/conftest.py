"""What the tests of storage share: a store in an empty bucket, a sealed folder, and a proxy that breaks connections."""

from __future__ import annotations

import os
import random

import pytest

from lorapar.store import open_store, seal


@pytest.fixture
def store(s3_address):
    return open_store(s3_address)


@pytest.fixture
def tree(tmp_path):
    """A sealed folder: some small files, one empty, one that goes up in parts (40 MB)."""
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    rng = random.Random(0)
    for number in range(12):
        (folder / "deep" / f"{number}.bin").write_bytes(rng.randbytes(200_000 * number))
    (folder / "large.bin").write_bytes(os.urandom(40_000_000))
    seal(folder, "test.tree")
    return folder
