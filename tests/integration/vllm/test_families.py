"""Families whose adapters vLLM serves: the same adapter answers in vLLM as in PEFT, and the base beside it as before.

`vllm: true` in tests/families.yaml names those that are tried each time; `docs/serving.md` lists what others did.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import load_tokenizer
from lorapar.config import EvaluateConfig, ModelConfig
from lorapar.evaluation.engine import open_engine
from lorapar.progress import Silent
from lorapar.prompts import prompt_ids

TABLE = yaml.safe_load((Path(__file__).parents[2] / "families.yaml").read_text(encoding="utf-8"))["families"]
FAMILIES = [family for family, values in TABLE.items() if values.get("vllm")]
TOKENS = 6


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_answers_as_in_peft(make_family, tmp_path, family) -> None:
    folder, adapter = tmp_path / "base", tmp_path / "adapter"
    base = make_family(family)
    base.save_pretrained(folder)
    load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(folder)
    model = attach(base, AdapterSettings(rank=4, alpha=16), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, adapter)
    settings = ModelConfig(name=str(folder), dtype="float32")
    tokenizer = load_tokenizer(settings)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in ("3+4?", "Capital of France?")]
    rows = [{"input_ids": [*ids, 60, 70], "labels": [*[-100] * len(ids), 60, 70]} for ids in prompts]
    message = {}
    for backend in ("transformers", "vllm"):
        with open_engine(settings, EvaluateConfig(backend=backend), tokenizer, [None, adapter], Silent()) as engine:
            for contestant in (adapter, None):
                with engine.asked(contestant) as asked:
                    message[backend, contestant] = (asked.generate(prompts, TOKENS), asked.losses(rows))
    for contestant in (adapter, None):
        expected, found = message["transformers", contestant], message["vllm", contestant]
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1], abs=1e-3)
    assert message["vllm", adapter][1] != pytest.approx(message["vllm", None][1], abs=1e-2), (
        "the adapter has to do something"
    )
