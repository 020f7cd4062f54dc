"""Adapters without the element partition, as PEFT starts them: DoRA, IA3, prompt tuning and prefix tuning.

All of their parameters are trained. They are baselines of the same runs: masks that cover everything, the same
trainers, checkpoints, proofs and folders.

Sources: Liu et al., "DoRA" (2024); Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning" (2022) for IA3, on keys,
values and the MLP's last projection; Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning" (2021),
begun with words of the vocabulary; Li and Liang, "Prefix-Tuning" (2021), without the projection.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorapar.adapter.layout import resolve_layout, takes_transposed
from lorapar.adapter.names import DEFAULT_ADAPTER, adapter_parameters
from lorapar.adapter.settings import AdapterSettings
from lorapar.config.adapter import kind_of_peft
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_IA3_LAYOUT, _IA3_INPUTS = "KVD", "D"
"""Where IA3's paper puts its scales; those of the second behind, on what the module takes in."""
_NUMBERED = "_lorapar_unnumbered_forward"


def kind_of(config: PeftConfig) -> str:
    """What kind of adapter a PEFT configuration is of: lora, dora, ia3, prompt or prefix.

    Raises BadInputError for any other.
    """
    name = str(getattr(config.peft_type, "value", config.peft_type))
    kind = kind_of_peft({"peft_type": name, "use_dora": getattr(config, "use_dora", False)})
    if kind == "other":
        raise BadInputError(f"an adapter of type {name} is none of LoRA, DoRA, IA3, prompt and prefix tuning")
    return kind


def config_of(base_model: torch.nn.Module, settings: AdapterSettings) -> PeftConfig:
    """PEFT's configuration of one of these kinds; raises BadInputError where the model lacks a module of the layout."""
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if settings.kind == "prompt":
        return PromptTuningConfig(
            **common, num_virtual_tokens=settings.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB"
        )
    if settings.kind == "prefix":
        return PrefixTuningConfig(**common, num_virtual_tokens=settings.virtual_tokens)
    modules = resolve_layout(base_model, settings.layout if settings.kind == "dora" else _IA3_LAYOUT)
    common |= {"target_modules": list(modules), "fan_in_fan_out": takes_transposed(base_model, modules)}
    if settings.kind == "ia3":
        return IA3Config(**common, feedforward_modules=list(_among(modules, resolve_layout(base_model, _IA3_INPUTS))))
    return LoraConfig(
        **common,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=True,
        bias="none",
    )


def _among(modules: Sequence[str], some: Sequence[str]) -> list[str]:
    """Those of the modules that a shorter layout names too; PEFT asks that the second be among the first."""
    return [name for name in modules if name in some]


def start(model: PeftModel) -> None:
    """Hold a fresh adapter in float32, and say nothing more of how its prompts were drawn."""
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
    config: Any = model.peft_config[DEFAULT_ADAPTER]
    if kind_of(config) == "prompt":
        config.prompt_tuning_init = "RANDOM"
    number_prompts(model)


def is_prompt(model: torch.nn.Module) -> bool:
    """Whether a model carries prompt or prefix tuning, which put positions before every text."""
    config = getattr(model, "peft_config", {}).get(DEFAULT_ADAPTER)
    return config is not None and bool(config.is_prompt_learning)


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """(N, L) positions by a mask (N, L) that is 0 in padding: 0 for a row's first token; padding has any."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def number_prompts(model: PeftModel) -> None:
    """Let a base that carries prompts or a prefix count positions by its mask, virtual tokens included.

    PEFT 0.21 drops the positions that `generate` gives, so that padding between the virtual tokens and a prompt would
    count, and an answer would depend on the rows beside it. Without padding nothing changes.
    """
    if not is_prompt(model):
        return
    warnings.filterwarnings("ignore", message="Position ids are not supported", category=UserWarning)
    base: Any = model.get_base_model()
    forward: Callable[..., Any] = base.forward
    if "position_ids" not in inspect.signature(forward).parameters or hasattr(base, _NUMBERED):
        return

    @functools.wraps(forward)
    def numbered(*args: Any, **given: Any) -> Any:
        mask = given.get("attention_mask")
        read = given.get("inputs_embeds")
        read = given.get("input_ids") if read is None else read
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and read is not None:
            given["position_ids"] = positions_of(mask)[:, -read.shape[1] :]
        return forward(*args, **given)

    object.__setattr__(base, _NUMBERED, vars(base).get("forward"))
    base.forward = numbered


def take_off(model: PeftModel) -> None:
    """Give the base back as it was, without the adapter."""
    if not is_prompt(model):
        model.unload()
        return
    base: Any = model.get_base_model()
    if hasattr(base, _NUMBERED):
        before = base.__dict__.pop(_NUMBERED)
        if before is None:
            del base.forward
        else:
            base.forward = before
