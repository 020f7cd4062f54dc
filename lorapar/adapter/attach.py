"""Attach a LoRA adapter without ever editing the base model.

An initialisation that leaves the function unchanged at step 0 is one LoRA of rank 2r, `[B, -B0][A; A0]`. Its second
half is frozen by the training mask and never counted in theta. So publishing is a copy, a 4-bit base works, and
switching the adapter off gives the true base model. An adapter to go on from is held the same way, as further frozen
rows and columns behind those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorapar.adapter import kinds
from lorapar.adapter.earlier import EarlierAdapter
from lorapar.adapter.initialise import hold_unchanged, start_factors
from lorapar.adapter.layout import paths_of, resolve_layout, takes_transposed, with_paths
from lorapar.adapter.names import DEFAULT_ADAPTER
from lorapar.adapter.settings import WHOLE_KINDS, AdapterMark, AdapterSettings, set_mark
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel


def attach(
    base_model: torch.nn.Module, settings: AdapterSettings, *, seed: int, earlier: EarlierAdapter | None = None
) -> PeftModel:
    """Wrap a base model with a freshly initialised LoRA adapter named `default`.

    The adapter's tensors are float32 also on a bfloat16 base. No base weight is read for `residual` and `paper`, and
    none is ever written. One seed gives one adapter on every device, and the global random state is left alone.

    With `earlier`, the function at step 0 is that of the earlier adapter (that of the base and `paper`'s noise aside):
    it is held frozen behind the new one, one LoRA of both ranks, `[B, -B0, B'][A; A0; A']`. Modules that only the
    earlier one adapts carry new elements, too.

    Returns:
        A PEFT model whose configuration is plain LoRA without init marks (or of one of `WHOLE_KINDS`), and whose mark
        says the trainable rank.

    Raises:
        BadInputError: the model lacks a module of the layout, already carries an adapter, or (PiSSA, OLoRA) has a
            layer that is smaller than the rank or cannot be read as floats.
        IntegrityError: the earlier adapter was made for another base model.
    """
    refuse_second_adapter(base_model)
    if settings.kind in WHOLE_KINDS:
        return _attach_whole(base_model, settings, seed=seed, earlier=earlier)
    modules, rank, alpha = resolve_layout(base_model, settings.layout), settings.held_rank, settings.held_alpha
    if earlier is not None:
        earlier.require_fit(base_model)
        modules = with_paths(base_model, modules, earlier.factors)
        rank += earlier.rank
        alpha = settings.plain_alpha * rank / settings.rank
    config = _plain_config(base_model, modules, rank=rank, alpha=alpha, dropout=settings.dropout)
    model = _wrap_exactly(base_model, config, modules, settings.base_model_name)
    _write_start(model, settings, seed, earlier)
    set_mark(model, AdapterMark(rank=settings.rank, init=settings.init))
    return model


def _attach_whole(
    base_model: torch.nn.Module, settings: AdapterSettings, *, seed: int, earlier: EarlierAdapter | None
) -> PeftModel:
    """The same of a kind that is trained as a whole, as PEFT starts it."""
    if earlier is not None:
        raise BadInputError(f"adapter.kind {settings.kind} cannot go on from {earlier.name}; use kind lora")
    model = wrap(base_model, kinds.config_of(base_model, settings), base_model_name=settings.base_model_name, seed=seed)
    kinds.start(model)
    set_mark(model, AdapterMark(rank=settings.rank if settings.kind == "dora" else 1, init="peft", kind=settings.kind))
    return model


def attach_again(
    base_model: torch.nn.Module,
    earlier: EarlierAdapter,
    *,
    trained_rank: int,
    dropout: float,
    base_model_name: str | None = None,
) -> PeftModel:
    """Wrap a base model with an earlier adapter whose own first `trained_rank` rows and columns are trained further.

    Raises IntegrityError where it was made for another base model, BadInputError as `attach` does.
    """
    refuse_second_adapter(base_model)
    earlier.require_fit(base_model)
    modules = with_paths(base_model, (), earlier.factors)
    alpha = earlier.scale * earlier.rank
    config = _plain_config(base_model, modules, rank=earlier.rank, alpha=alpha, dropout=dropout)
    model = _wrap_exactly(base_model, config, modules, base_model_name)
    with torch.no_grad():
        for path, layer in lora_layers(model):
            _write(layer, *_held(earlier, path, layer))
    set_mark(model, AdapterMark(rank=trained_rank, init="continued"))
    return model


def _plain_config(
    base_model: torch.nn.Module, modules: Sequence[str], *, rank: int, alpha: float, dropout: float
) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(modules),
        task_type="CAUSAL_LM",
        init_lora_weights=True,
        fan_in_fan_out=takes_transposed(base_model, modules),
        bias="none",
    )


def _wrap_exactly(
    base_model: torch.nn.Module, config: LoraConfig, modules: Sequence[str], base_model_name: str | None
) -> PeftModel:
    """As `wrap`; raises BadInputError where PEFT made of the modules' names something else than LoRA on these modules.

    It translates names of models that transformers loads under others than it saves them by.
    """
    meant = set(paths_of(base_model, modules))
    model = wrap(base_model, config, base_model_name=base_model_name)
    found = {path.removeprefix("base_model.model.") for path, _ in lora_layers(model)}
    if found != meant:
        raise BadInputError(
            f"adapter.layout: PEFT puts LoRA on other modules of {type(base_model).__name__} than those meant (see "
            f"{min(found ^ meant)}); choose other modules, such as adapter.layout QKV"
        )
    return model


def wrap(
    base_model: torch.nn.Module, config: PeftConfig, *, base_model_name: str | None, seed: int | None = None
) -> PeftModel:
    """A PEFT model around the base, begun with a seed where one is given; the global random state is left as it was.

    PEFT names the base after the loaded model; `base_model_name`, where given, overrides it.
    """
    from peft import get_peft_model

    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        model = get_peft_model(base_model, config)
    if base_model_name is not None:
        model.peft_config[DEFAULT_ADAPTER].base_model_name_or_path = base_model_name
    return model


def refuse_second_adapter(base_model: torch.nn.Module) -> None:
    """Raise BadInputError where the model already carries adapted layers: scores and masks assume one adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in base_model.modules()):
        raise BadInputError(
            "this model already carries an adapter: load the base model again, "
            "or take it out with model.unload(), before attaching another"
        )


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The adapted layers by path, in sorted order of the paths."""
    from peft.tuners.lora import LoraLayer

    found = [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]
    yield from sorted(found, key=lambda pair: pair[0])


@torch.no_grad()
def _write_start(model: PeftModel, settings: AdapterSettings, seed: int, earlier: EarlierAdapter | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for path, layer in lora_layers(model):
        a, b = start_factors(layer.get_base_layer(), settings, path=path, generator=generator)
        if settings.has_frozen_half:
            a, b = hold_unchanged(a, b)
        if earlier is not None:
            old_a, old_b = _held(earlier, path, layer)
            a, b = torch.cat([a, old_a.to(a.device)]), torch.cat([b, old_b.to(b.device)], dim=1)
        _write(layer, a, b)


def _held(earlier: EarlierAdapter, path: str, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What an earlier adapter is at a layer, under the scale the layer has now."""
    return earlier.held(
        path.removeprefix("base_model.model."),
        scale=float(layer.scaling[DEFAULT_ADAPTER]),
        inputs=layer.lora_A[DEFAULT_ADAPTER].weight.shape[1],
        outputs=layer.lora_B[DEFAULT_ADAPTER].weight.shape[0],
    )


def _write(layer: Any, a: torch.Tensor, b: torch.Tensor) -> None:
    layer.lora_A[DEFAULT_ADAPTER].weight.copy_(a)
    layer.lora_B[DEFAULT_ADAPTER].weight.copy_(b)
