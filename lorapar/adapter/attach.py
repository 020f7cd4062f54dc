"""Attach a LoRA adapter without ever editing the base model.

An initialisation that leaves the function unchanged at step 0 is one LoRA of rank 2r, `[B, -B0][A; A0]`. Its second
half is frozen by the training mask and never counted in theta. So publishing is a copy, a 4-bit base works, and
switching the adapter off gives the true base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from lorapar.adapter.initialise import hold_unchanged, start_factors
from lorapar.adapter.layout import resolve_layout, takes_transposed
from lorapar.adapter.names import DEFAULT_ADAPTER
from lorapar.adapter.settings import AdapterMark, AdapterSettings, set_mark
from lorapar.errors import BadInputError


def attach(base_model: torch.nn.Module, settings: AdapterSettings, *, seed: int) -> PeftModel:
    """Wrap a base model with a freshly initialised LoRA adapter named `default`.

    The adapter's tensors are float32 also on a bfloat16 base. No base weight is read for `residual` and `paper`, and
    none is ever written. One seed gives one adapter on every device, and the global random state is left alone.

    Returns:
        A PEFT model whose configuration is plain LoRA without init marks, and whose mark says the trainable rank.

    Raises:
        BadInputError: the model lacks a module of the layout, already carries an adapter, or (PiSSA, OLoRA) has a
            layer that is smaller than the rank or cannot be read as floats.
    """
    refuse_second_adapter(base_model)
    targets = resolve_layout(base_model, settings.layout)
    config = LoraConfig(
        r=settings.held_rank,
        lora_alpha=settings.held_alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        init_lora_weights=True,
        fan_in_fan_out=takes_transposed(base_model, targets),
        bias="none",
    )
    model = wrap(base_model, config, base_model_name=settings.base_model_name)
    _write_start(model, settings, seed)
    set_mark(model, AdapterMark(rank=settings.rank, init=settings.init))
    return model


def wrap(base_model: torch.nn.Module, config: LoraConfig, *, base_model_name: str | None) -> PeftModel:
    """A PEFT model around the base; the global random state is left as it was.

    PEFT names the base after the loaded model; `base_model_name`, where given, overrides it.
    """
    with torch.random.fork_rng():
        model = get_peft_model(base_model, config)
    if base_model_name is not None:
        model.peft_config[DEFAULT_ADAPTER].base_model_name_or_path = base_model_name
    return model


def refuse_second_adapter(base_model: torch.nn.Module) -> None:
    """Raise BadInputError where the model already carries LoRA layers: scores and masks assume one adapter."""
    if any(isinstance(module, LoraLayer) for module in base_model.modules()):
        raise BadInputError(
            "this model already carries a LoRA adapter: load the base model anew, "
            "or take it out with model.unload(), before attaching another"
        )


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The adapted layers by path, in sorted order of the paths."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]
    yield from sorted(found, key=lambda pair: pair[0])


@torch.no_grad()
def _write_start(model: PeftModel, settings: AdapterSettings, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for path, layer in lora_layers(model):
        a, b = start_factors(layer.get_base_layer(), settings, path=path, generator=generator)
        if settings.has_frozen_half:
            a, b = hold_unchanged(a, b)
        layer.lora_A[DEFAULT_ADAPTER].weight.copy_(a)
        layer.lora_B[DEFAULT_ADAPTER].weight.copy_(b)
