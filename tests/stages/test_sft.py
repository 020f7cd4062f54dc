"""The stage sft: folders in, folder out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from peft import PeftModel

from lorapar.adapter import load_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.config.adapter import BYTES_AN_ELEMENT
from lorapar.errors import BadInputError

FAST = {"batch_size": 2, "gradient_accumulation": 2, "max_steps": 2, "learning_rate": 1e-3}


@pytest.fixture
def inputs(kit, adapter: Path, partition: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        "adapter": adapter,
        "partition": partition,
        "system1": kit.rows_folder(tmp_path / "system1", kit.words(8)),
        "system2": kit.rows_folder(tmp_path / "system2", kit.sums(8)),
    }


def test_makes_a_plain_peft_adapter(kit, inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = {"model": kit.TINY, "prompts": {}, "sft": {**FAST, "warmup_system2_examples": 2}, "seed": 0}
    metrics, out = kit.run("sft", tmp_path, settings, inputs)
    assert {path.name for path in (out / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "lorapar_adapter.json",
        "history.jsonl",
        "summary.json",
        "manifest.json",
    }
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["steps"] == 2
    assert metrics["rows"] == 10
    summary = json.loads((out / "adapter" / "summary.json").read_text())
    kept = summary["moment_bytes"] + summary["index_bytes"]
    padding = kept - BYTES_AN_ELEMENT * summary["active_elements"]
    tensors = 2 * 2 * 6
    assert 0 <= padding < tensors * 16 * 8, "partition.budget_bytes counts with this, but for whole vectors"
    assert len(json.loads((out / "adapter" / "summary.json").read_text())["warmup_ids"]) == 2
    base = ModelConfig(**kit.TINY)
    PeftModel.from_pretrained(load_model(base), str(out / "adapter"))
    load_adapter(load_model(base), out / "adapter", trainable=True)


def test_a_partition_of_another_adapter_is_refused(kit, inputs: dict[str, Path], tmp_path: Path) -> None:
    other = {"model": kit.TINY, "adapter": {"rank": 3}, "seed": 0}
    _, made = kit.run("init", tmp_path / "other", other)
    settings = {"model": kit.TINY, "prompts": {}, "sft": FAST, "seed": 0}
    with pytest.raises(BadInputError, match="use a partition made from this adapter"):
        kit.run("sft", tmp_path / "sft", settings, {**inputs, "adapter": made / "adapter"})
