"""Names, order and trainable part of LoRA tensors.

Every tensor this package gives or takes is keyed as PEFT saves it, without the adapter's name:
`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.

Shape letters used throughout `lorapar.adapter`:
    r    trainable LoRA rank
    R    LoRA rank as PEFT holds it (r, or 2r where a frozen half keeps the function unchanged at step 0)
    in   input features of the adapted linear layer
    out  output features of the adapted linear layer
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from lorapar.errors import BadInputError

DEFAULT_ADAPTER = "default"
LORA_KEY = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\b")
# What data parallelism, FSDP and torch.compile put into a parameter's name.
_WRAPPERS = re.compile(r"(^module\.|_fsdp_wrapped_module\.|_orig_mod\.)")
_LAYER = re.compile(r"\.(\d+)\.")


def canonical_name(name: str, adapter_name: str = DEFAULT_ADAPTER) -> str:
    """A parameter's or module's name as PEFT saves it: without the adapter's name and without wrappers' prefixes."""
    bare = _WRAPPERS.sub("", name)
    return re.sub(rf"(\.lora_[AB])\.{re.escape(adapter_name)}(?=\.|$)", r"\1", bare)


def lora_parameters(model: torch.nn.Module, adapter_name: str = DEFAULT_ADAPTER) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices of one adapter, keyed as in the PEFT state dict, in sorted order of the keys.

    `lora_A` tensors are [R, in], `lora_B` tensors [out, R]. Other adapters of the same model (TRL adds one named
    `ref` when GRPO's beta is not 0) are left out.

    Raises:
        BadInputError: the model carries no adapter of that name.
    """
    marker = re.compile(rf"\.lora_[AB]\.{re.escape(adapter_name)}\.weight$")
    found = {canonical_name(name, adapter_name): p for name, p in model.named_parameters() if marker.search(name)}
    if not found:
        raise BadInputError(
            f"the model carries no LoRA adapter named '{adapter_name}': attach() or load_adapter() one first"
        )
    return dict(sorted(found.items()))


def trainable_slice(name: str, tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """The trainable part of a LoRA tensor, as a view: the first `rank` rows of A, the first `rank` columns of B.

    Raises:
        BadInputError: the name is neither a `lora_A` nor a `lora_B` tensor, or it has fewer than `rank` rows (columns).
    """
    axis = _rank_axis(name)
    if not 1 <= rank <= tensor.shape[axis]:
        raise BadInputError(
            f"'{name}' has LoRA rank {tensor.shape[axis]}, so its first {rank} cannot be the trainable part: "
            f"give a rank between 1 and {tensor.shape[axis]}"
        )
    return tensor.narrow(axis, 0, rank)


def _rank_axis(name: str) -> int:
    if name.endswith(".lora_A.weight"):
        return 0
    if name.endswith(".lora_B.weight"):
        return 1
    raise BadInputError(f"'{name}' is not a LoRA tensor: its name must end with .lora_A.weight or .lora_B.weight")


def layer_and_module(name: str) -> tuple[int | None, str]:
    """Layer number and module name of a LoRA tensor: (0, 'q_proj'); the number is None outside numbered layers."""
    module_path = name.rsplit(".lora_", 1)[0]
    number = _LAYER.search(module_path)
    return (int(number.group(1)) if number else None), module_path.rsplit(".", 1)[-1]


def module_labels(names: Iterable[str]) -> dict[str, str]:
    """What to call the module of each LoRA tensor: its name, or `block.name` where a layer has two of that name."""
    paths = {name: name.rsplit(".lora_", 1)[0] for name in names}
    places: dict[tuple[int | None, str], set[str]] = {}
    for name, path in paths.items():
        places.setdefault(layer_and_module(name), set()).add(path)
    double = {module for (_, module), found in places.items() if len(found) > 1}
    return {
        name: ".".join(path.rsplit(".", 2)[-2:]) if layer_and_module(name)[1] in double else path.rsplit(".", 1)[-1]
        for name, path in paths.items()
    }
