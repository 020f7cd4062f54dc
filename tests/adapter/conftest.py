"""Tiny random models of the supported families, adapters on them, and scoring batches."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lorapar.adapter import AdapterSettings, attach, lora_parameters

VOCABULARY = 97
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}


def build_base(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32):
    """A two-layer model with random weights large enough for its logits to differ between tokens."""
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).to(dtype)
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_base():
    """Builds a tiny base model: make_base("llama", seed=0, dtype=torch.float32)."""
    return build_base


@pytest.fixture
def make_adapter():
    """Builds a tiny model with an adapter whose A and B have moved from their start, as after some training."""

    def make(rank: int = 4, init: str = "residual", family: str = "llama", dropout: float = 0.0, moved: bool = True):
        model = attach(build_base(family), AdapterSettings(rank=rank, alpha=8, dropout=dropout, init=init), seed=3)
        if moved:
            generator = torch.Generator().manual_seed(11)
            with torch.no_grad():
                for parameter in lora_parameters(model).values():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return model

    return make


@pytest.fixture
def examples():
    """Seven examples of different lengths, prompt and answer: lists of (input_ids, labels)."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for prompt, answer in [(3, 2), (6, 1), (2, 5), (4, 4), (9, 3), (1, 1), (5, 2)]:
        ids = torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator)
        made.append((ids, torch.cat([torch.full((prompt,), -100), ids[prompt:]])))
    return made


@pytest.fixture
def batched():
    """Pads examples into batches of a given size, on the right or on the left."""

    def batches(examples, size: int, side: str = "right"):
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            width = max(len(ids) for ids, _ in part)
            batch = {"input_ids": [], "attention_mask": [], "labels": []}
            for ids, labels in part:
                gap = width - len(ids)
                around = (0, gap) if side == "right" else (gap, 0)
                pad = torch.nn.functional.pad
                batch["input_ids"].append(pad(ids, around, value=0))
                batch["attention_mask"].append(pad(torch.ones_like(ids), around, value=0))
                batch["labels"].append(pad(labels, around, value=-100))
            yield {key: torch.stack(rows) for key, rows in batch.items()}

    return batches


@pytest.fixture
def random_mask():
    """A random mask over the trainable part of a model's adapter: random_mask(model, rank, fraction=0.4)."""
    from lorapar.adapter import trainable_slice

    def make(model, rank: int, fraction: float = 0.4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.rand(trainable_slice(name, parameter, rank).shape, generator=generator) < fraction
            for name, parameter in lora_parameters(model).items()
        }

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """Words w3 to w96 and the digits of a tiny vocabulary, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
