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
ADAPTER_KEY = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\b|\.ia3_l\b")
"""What belongs to an adapter inside the model's modules. Prompts are beside the model."""
MAGNITUDE, SCALES, PROMPT = ".lora_magnitude_vector", ".ia3_l", "prompt_embeddings"
"""How the names of tensors without a rank end, which are trained whole: of DoRA, IA3, prompt and prefix tuning."""
# What data parallelism, FSDP and torch.compile put into a parameter's name.
_WRAPPERS = re.compile(r"(^module\.|_fsdp_wrapped_module\.|_orig_mod\.)")
_LAYER = re.compile(r"\.(\d+)\.")


def canonical_name(name: str, adapter_name: str = DEFAULT_ADAPTER) -> str:
    """A parameter's or module's name as PEFT saves it: without the adapter's name and without wrappers' prefixes."""
    bare = _WRAPPERS.sub("", name)
    name = re.escape(adapter_name)
    if re.fullmatch(rf"prompt_encoder\.{name}\.embedding\.weight", bare):
        return PROMPT
    bare = re.sub(rf"(\.lora_magnitude_vector)\.{name}\.weight$", r"\1", bare)
    return re.sub(rf"(\.lora_[AB]|\.ia3_l)\.{name}(?=\.|$)", r"\1", bare)


def adapter_parameters(model: torch.nn.Module, adapter_name: str = DEFAULT_ADAPTER) -> dict[str, torch.nn.Parameter]:
    """Every tensor of one adapter of any kind, keyed as in the PEFT state dict, in sorted order of the keys.

    Those of LoRA are what `lora_parameters` gives; DoRA has magnitudes [out] besides, IA3 scales [out, 1] or [1, in],
    and prompt and prefix tuning one tensor [virtual tokens, width].

    Raises:
        BadInputError: the model carries no adapter of that name.
    """
    one = re.escape(adapter_name)
    marker = re.compile(
        rf"\.lora_(?:[AB]|magnitude_vector)\.{one}\.weight$|\.ia3_l\.{one}$|(?:^|\.)prompt_encoder\.{one}\.embedding\.weight$"
    )
    return _named(model, marker, adapter_name)


def lora_parameters(model: torch.nn.Module, adapter_name: str = DEFAULT_ADAPTER) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices of one adapter, keyed as in the PEFT state dict, in sorted order of the keys.

    `lora_A` tensors are [R, in], `lora_B` tensors [out, R]. Other adapters of the same model (TRL adds one named
    `ref` when GRPO's beta is not 0) are left out.

    Raises:
        BadInputError: the model carries no adapter of that name.
    """
    return _named(model, re.compile(rf"\.lora_[AB]\.{re.escape(adapter_name)}\.weight$"), adapter_name)


def _named(model: torch.nn.Module, marker: re.Pattern[str], adapter_name: str) -> dict[str, torch.nn.Parameter]:
    found = {canonical_name(name, adapter_name): p for name, p in model.named_parameters() if marker.search(name)}
    if not found:
        raise BadInputError(
            f"the model carries no adapter named '{adapter_name}': attach() or load_adapter() one first"
        )
    return dict(sorted(found.items()))


def trainable_slice(name: str, tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """The trainable part of a tensor, as a view: the first `rank` rows of A or columns of B; of other kinds all of it.

    Raises:
        BadInputError: the name is no adapter's tensor, or it has fewer than `rank` rows (columns).
    """
    if name.endswith((MAGNITUDE, SCALES)) or name == PROMPT:
        return tensor
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
    """Layer number and module name of a tensor: (0, 'q_proj'); the number is None outside numbered layers."""
    module_path = _module_path(name)
    number = _LAYER.search(module_path)
    return (int(number.group(1)) if number else None), module_path.rsplit(".", 1)[-1]


def _module_path(name: str) -> str:
    return name.rsplit(".lora_", 1)[0].removesuffix(SCALES)


def module_labels(names: Iterable[str]) -> dict[str, str]:
    """What to call the module of each tensor: its name, or `block.name` where a layer has two of that name."""
    paths = {name: _module_path(name) for name in names}
    places: dict[tuple[int | None, str], set[str]] = {}
    for name, path in paths.items():
        places.setdefault(layer_and_module(name), set()).add(path)
    double = {module for (_, module), found in places.items() if len(found) > 1}
    return {
        name: ".".join(path.rsplit(".", 2)[-2:]) if layer_and_module(name)[1] in double else path.rsplit(".", 1)[-1]
        for name, path in paths.items()
    }
