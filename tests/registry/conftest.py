"""A trained adapter and what it was made from, small and sealed, without running the stages before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, base_digest, save_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.records import Example, Label, write_json, write_records
from lorapar.registry import Origins
from lorapar.store import seal

BASE = ModelConfig(name="builtin:tiny", dtype="float32", digest="d" * 64)


@pytest.fixture(scope="session")
def base() -> ModelConfig:
    """The tiny model's settings."""
    return BASE


def train(folder: Path, dtype: str = "float32") -> Path:
    """An adapter whose trainable half is no longer where it started."""
    model = attach(
        load_model(BASE.model_copy(update={"dtype": dtype})),
        AdapterSettings(rank=4, base_model_name="builtin:tiny"),
        seed=0,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder)
    summary = {"steps": 3, "seconds": 1.5, "reward_first": 0.25, "reward_last": 0.75}
    write_json(folder / "summary.json", {**summary, "base_weights_sha256": base_digest(model)})
    seal(folder, "rl.adapter")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What rl leaves."""
    return train(tmp_path_factory.mktemp("rl"))


@pytest.fixture(scope="session")
def origins(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Origins:
    """Every artifact that publish reads."""
    root = tmp_path_factory.mktemp("origins")
    for name in ("examples", "votes1", "votes2", "labels", "partition"):
        (root / name).mkdir()
    rows = [
        Example(id=f"r{n}", question=f"{n}+1?", answer=str(n + 1), split="heldout" if n > 3 else "train")
        for n in range(8)
    ]
    write_records(root / "examples" / "examples.jsonl", rows)
    write_json(root / "examples" / "summary.json", {"source": "task-mix", "digest": "e" * 64})
    for number in (1, 2):
        about = {f"teacher{number}": {"model": "builtin:tiny", "template": "t" * 8}}
        write_json(root / f"votes{number}" / "summary.json", {"teachers": about})
    labels = [
        Label(example_id=f"r{n}", system=system, votes={}, agreement=1.0)
        for n, system in enumerate(["system1", "system2", "system2", None])
    ]
    write_records(root / "labels" / "labels.jsonl", labels)
    write_json(root / "partition" / "summary.json", {"theta": 0.9, "jaccard": 0.5, "elements": 100, "scatter": [1]})
    for folder in root.iterdir():
        seal(folder, folder.name)
    return Origins(
        adapter=trained,
        examples=root / "examples",
        votes=(root / "votes1", root / "votes2"),
        labels=root / "labels",
        partition=root / "partition",
    )
