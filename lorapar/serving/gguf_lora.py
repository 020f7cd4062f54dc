"""A published adapter as a LoRA in GGUF, the format of llama.cpp and of what is built on it.

Writes what llama.cpp's own `convert_lora_to_gguf.py` writes, which is a script in its repository and in no package.
llama.cpp multiplies the product of a module by `adapter.lora.alpha` / rank of its B. So PEFT's scales, from rsLoRA or
patterns, go into one alpha and, where they differ, into B.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.basemodel.shape import config_values
from lorapar.errors import BadInputError
from lorapar.serving.here import LocalAdapter

if TYPE_CHECKING:
    import torch

    from lorapar.adapter.earlier import EarlierAdapter

MAGIC = b"GGUF"


@dataclass(frozen=True)
class Family:
    """How llama.cpp stores models of one `model_type`."""

    architecture: str
    """llama.cpp's name for it."""
    interleaved: bool = False
    """Whether rows of q and k that rotary embedding pairs are adjacent; transformers keeps them in two halves."""


FAMILIES: Mapping[str, Family] = {
    "granite": Family("granite", interleaved=True),
    "llama": Family("llama", interleaved=True),
    "mistral": Family("llama", interleaved=True),
    "olmo2": Family("olmo2"),
    "phi3": Family("phi3"),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "smollm3": Family("smollm3", interleaved=True),
}
"""Families by `model_type`: only those whose logits a test compares between PEFT and llama.cpp."""


def family_of(adapter: LocalAdapter) -> Family:
    """The family of the adapter's base model; raises BadInputError for a family that no test compares."""
    return _family(adapter, base_config(adapter))


def base_config(adapter: LocalAdapter) -> dict[str, Any]:
    """The base model's config.json; lorapar's two built-in models are Llamas, and their files need not say so."""
    values = config_values(adapter.model)
    ours = kind_of(adapter.model) in (Kind.BUILTIN, Kind.WHEEL)
    return {"model_type": "llama", **values} if ours else values


def write_gguf(adapter: LocalAdapter, file: Path) -> int:
    """Write the adapter as a GGUF file in float32, as a whole or not at all; returns how many modules it holds.

    Raises BadInputError for a base model of a family outside `FAMILIES`, for LoRA on a module that llama.cpp does not
    have, and for a file that exists.
    """
    from gguf import GGUFWriter

    from lorapar.adapter.earlier import read_earlier

    if file.exists():
        raise BadInputError(f"{file}: is there already; name a new file")
    config = base_config(adapter)
    family = _family(adapter, config)
    earlier = read_earlier(adapter.folder, adapter.name, "")
    alpha = earlier.scale * next(iter(earlier.factors.values())).a.shape[0]
    tensors = list(_tensors(earlier, config, family, alpha))
    part = file.with_name(f".{file.name}.part")
    try:
        writer = GGUFWriter(part, family.architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        writer.add_name(Path(adapter.name).name)
        for name, value in tensors:
            writer.add_tensor(name, value.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return len(earlier.factors)


def _family(adapter: LocalAdapter, config: Mapping[str, Any]) -> Family:
    kind, own_code = str(config.get("model_type")), "auto_map" in config
    if kind not in FAMILIES or own_code:
        what = kind + " with code of its own" * own_code
        raise BadInputError(
            f"{adapter.name}: its base model is a {what}, and only adapters of {', '.join(FAMILIES)} have been "
            "compared between PEFT and llama.cpp; make one plain "
            "model with `lorapar export --merged` and convert that with llama.cpp's convert_hf_to_gguf.py"
        )
    return FAMILIES[kind]


def _tensors(
    earlier: EarlierAdapter, config: Mapping[str, Any], family: Family, alpha: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values; A is [rank, in] and B [out, rank], which GGUF stores with dimensions in reverse."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(one for one, name in MODEL_ARCH_NAMES.items() if name == family.architecture)
    table = get_tensor_name_map(architecture, int(config["num_hidden_layers"]))
    for path, own in earlier.factors.items():
        name = table.get_name(path)
        if name is None or (name == "output" and config.get("tie_word_embeddings")):
            raise BadInputError(
                f"{earlier.name}: has LoRA on '{path}', which is no module of its own in llama.cpp; make one plain "
                "model with `lorapar export --merged` and convert that"
            )
        rank, b = own.a.shape[0], own.b.double()
        if own.scale * rank != alpha:
            b = b * (own.scale * rank / alpha)
        if family.interleaved and path.endswith((".q_proj", ".k_proj")):
            key = "num_attention_heads" if path.endswith(".q_proj") else "num_key_value_heads"
            b = _interleaved(b, int(config.get(key) or config["num_attention_heads"]))
        yield f"{name}.weight.lora_a", own.a
        yield f"{name}.weight.lora_b", b


def _interleaved(b: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in llama.cpp's order; shape (heads * head_dim, rank), kept.

    Inverse of `_unpermuted` in lorapar/basemodel/wheel.py.
    """
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)
