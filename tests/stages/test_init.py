"""A fresh adapter: plain PEFT, unchanged function, base weights named by their digest."""

from __future__ import annotations

import json

import torch
from peft import PeftModel

from lorapar.adapter import base_digest, load_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
IDS = torch.tensor([[5, 60, 7, 100]])


def test_the_adapter_is_plain_peft_and_leaves_the_function_unchanged(adapter) -> None:
    model = PeftModel.from_pretrained(load_model(BASE), str(adapter))
    with torch.no_grad():
        difference = model(IDS).logits - load_model(BASE)(IDS).logits
    assert difference.abs().max() < 1e-5


def test_the_summary_names_the_base_weights_and_counts_the_trainable_part(adapter, kit, tmp_path) -> None:
    metrics, again = kit.run("init", tmp_path, {"model": kit.TINY, "adapter": kit.ADAPTER, "seed": 0})
    summary = json.loads((again / "adapter" / "summary.json").read_text())
    assert summary["base_weights_sha256"] == base_digest(load_model(BASE))
    model = load_adapter(load_model(BASE), adapter, trainable=True)
    held = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    # Residual: the second half only holds the start back and is never trained.
    assert metrics["elements"] == held / 2
    assert (metrics["rank"], metrics["held_rank"]) == (2, 4)


def test_the_seed_alone_decides_the_adapter(adapter, kit, tmp_path) -> None:
    def weights(seed: int) -> bytes:
        out = tmp_path / str(seed)
        kit.run("init", out, {"model": kit.TINY, "adapter": kit.ADAPTER, "seed": seed})
        return (out / "adapter" / "adapter_model.safetensors").read_bytes()

    assert weights(0) == (adapter / "adapter_model.safetensors").read_bytes()
    assert weights(1) != weights(0)
