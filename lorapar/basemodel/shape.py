"""Sizes of a model from its config.json alone: enough to say what memory a stage will need, without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.basemodel import bucket, tiny
from lorapar.basemodel.quantized import sidecars_in, with_sidecar
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


# What configurations call a size, the usual name first: the attribute maps of transformers' decoders in one table.
_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dff"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts"),
}
# Families whose MLP has two matrices, without a gate.
_UNGATED = {
    *("gpt2", "gpt_neox", "gptj", "gpt_bigcode", "codegen", "falcon", "bloom", "opt", "mpt", "xglm"),
    *("openai-gpt", "gpt-sw3", "gpt_neo", "gpt_neox_japanese", "biogpt", "ctrl", "jais2"),
    *("phi", "starcoder2", "nemotron", "persimmon", "nanochat", "apertus", "arcee"),
}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder; of one with other parts than attention and MLP about so."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    gated: bool = True
    """Whether the MLP has a gate beside U and D."""
    experts: int = 0
    """Routed experts of a sparse layer."""
    expert_intermediate: int = 0
    sparse_layers: int = 0

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each projection of a layer, by its letter in a LoRA layout (Q, K, V, O, G, U, D)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        gate = {"G": (self.hidden, self.intermediate)} if self.gated else {}
        return {
            "Q": (self.hidden, queries),
            "K": (self.hidden, keys),
            "V": (self.hidden, keys),
            "O": (queries, self.hidden),
            **gate,
            "U": (self.hidden, self.intermediate),
            "D": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Number of weights, biases and norms left out (under 0.1% of a decoder of this kind)."""
        sizes = {role: inputs * outputs for role, (inputs, outputs) in self.projections.items()}
        mlp = sum(size for role, size in sizes.items() if role in "GUD")
        experts = self.sparse_layers * (self.experts * 3 * self.hidden * self.expert_intermediate - mlp)
        return self.layers * sum(sizes.values()) + experts + self.hidden * self.vocab * (1 if self.tied else 2)

    def lora_elements(self, layout: str | tuple[str, ...], rank: int) -> int:
        """Elements of a LoRA of this rank on the roles of a layout such as QKVGUD; on all of them for another kind."""
        named = isinstance(layout, str) and set(layout) <= set("QKVOGUD")
        roles = [role for role in self.projections if not named or role in layout]
        return self.layers * sum(rank * sum(self.projections[role]) for role in roles)


def model_shape(config: ModelConfig) -> ModelShape | None:
    """The sizes of a resolved model; None where its config.json has no name for one of them that is known here."""
    try:
        return _shape(config_values(config))
    except KeyError:
        return None


_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")


def context_length(config: ModelConfig) -> int | None:
    """How many tokens a resolved model can read at once; None where its config.json does not say."""
    values = _of_decoder(config_values(config))
    found = [values[key] for key in _CONTEXT_KEYS if isinstance(values.get(key), int)]
    return found[0] if found else None


def _of_decoder(values: dict[str, Any]) -> dict[str, Any]:
    """The values with those of the decoder on top, where it is beside a vision encoder."""
    return {**values, **(values.get("text_config") or {})}


def _shape(values: dict[str, Any]) -> ModelShape:
    values = _of_decoder(values)
    hidden, layers, heads = (_size(values, name) for name in ("hidden", "layers", "heads"))
    kind = values.get("model_type")
    experts = _size(values, "experts", 0)
    one_key = values.get("multi_query") and not values.get("new_decoder_architecture")  # Falcon has both
    dense = values.get("first_k_dense_replace") or 0
    return ModelShape(
        hidden=hidden,
        intermediate=_size(values, "intermediate", 4 * hidden),
        layers=layers,
        heads=heads,
        kv_heads=1 if one_key else _size(values, "kv_heads", heads),
        head_dim=values.get("head_dim") or hidden // heads,
        vocab=values["vocab_size"],
        # Where a config.json says nothing: models of the names that came before Llama's tie them.
        tied=values.get("tie_word_embeddings", "hidden_size" not in values),
        gated=kind not in _UNGATED,
        experts=experts,
        expert_intermediate=values.get("moe_intermediate_size") or _size(values, "intermediate", 4 * hidden),
        sparse_layers=layers - dense if experts else 0,
    )


def _size(values: dict[str, Any], name: str, otherwise: int | None = None) -> int:
    """A size by any of its names; raises KeyError where none is there and `otherwise` is None."""
    found = next((values[key] for key in _NAMES[name] if values.get(key) is not None), otherwise)
    if not isinstance(found, int):
        raise KeyError(name)
    return found


VLLM_ANSWERS_OTHERWISE = {"gpt_bigcode"}
"""Types with LoRA on which vLLM 0.32 answers otherwise than PEFT, without a word (tried with tiny random models)."""


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
    return with_sidecar(json.loads(path.read_text(encoding="utf-8")), sidecars_in(path.parent))
