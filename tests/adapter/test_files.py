"""Tensor files: equal contents, equal bytes."""

from __future__ import annotations

import torch

from lorapar.adapter.files import read_tensors, write_tensors


def test_equal_contents_give_equal_bytes(tmp_path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1, dtype=torch.int64)}
    metadata = {f"key {n}": f'«value» "{n}"\n' for n in range(20)}
    for number in range(5):
        ordered = dict(reversed(metadata.items())) if number % 2 else metadata
        write_tensors(tmp_path / f"{number}.safetensors", tensors, ordered)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    back, found = read_tensors(tmp_path / "0.safetensors")
    assert found == metadata
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_no_metadata_is_fine(tmp_path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})
    assert read_tensors(tmp_path / "x.safetensors")[1] == {}
