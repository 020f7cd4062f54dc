"""Settings of an adapter and the mark that travels with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from lorapar.adapter.names import DEFAULT_ADAPTER, adapter_parameters
from lorapar.errors import BadInputError, TrainingError, nearest

Init = Literal["residual", "paper", "pissa", "olora"]
INITS: tuple[str, ...] = get_args(Init)
Kind = Literal["lora", "rslora", "dora", "prompt", "prefix", "ia3"]
WHOLE_KINDS = ("dora", "prompt", "prefix", "ia3")
"""Kinds without the element partition: every parameter is trained."""
_MARK_ATTRIBUTE = "_lorapar_mark"


@dataclass(frozen=True)
class AdapterSettings:
    """What to attach. The defaults are the paper's (section 4), with an init that leaves the function unchanged."""

    rank: int = 8
    """Trainable LoRA rank r. PEFT holds 2r unless `init` is 'paper'."""
    alpha: float = 64
    """LoRA alpha; the adapter's output is scaled by alpha / rank, of rslora by alpha / sqrt(rank)."""
    dropout: float = 0.05
    """Dropout probability on the adapter's input while training."""
    layout: str | tuple[str, ...] = "QKVGUD"
    """Roles such as 'QKVGUD' or 'QV', 'all-linear', a regular expression, or module names; see `find_targets`."""
    init: Init = "residual"
    """'residual', 'paper', 'pissa' or 'olora'."""
    pissa_iterations: int = 0
    """For 'pissa': 0 takes the exact SVD; n > 0 takes PEFT's fast randomised one with n subspace iterations."""
    kind: Kind = "lora"
    """'lora', 'rslora', or one of `WHOLE_KINDS`, which `lorapar.adapter.kinds` attaches."""
    virtual_tokens: int = 20
    """Of prompt and prefix tuning."""
    base_model_name: str | None = None
    """What adapter_config.json calls the base model; None keeps the name the model was loaded under."""

    def __post_init__(self) -> None:
        """Refuse values that cannot mean anything."""
        if self.rank < 1:
            raise BadInputError(f"adapter.rank is {self.rank}: it must be at least 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise BadInputError(f"adapter.alpha is {self.alpha}: it must be a positive number")
        if not 0 <= self.dropout < 1:
            raise BadInputError(f"adapter.dropout is {self.dropout}: it must be at least 0 and below 1")
        if self.pissa_iterations < 0:
            raise BadInputError(f"adapter.pissa_iterations is {self.pissa_iterations}: it must be 0 (exact) or more")
        if self.init not in INITS:
            raise BadInputError(
                f"unknown adapter.init '{self.init}'{nearest(self.init, list(INITS))}: choose {', '.join(INITS)}"
            )

    @property
    def has_frozen_half(self) -> bool:
        """Whether PEFT holds rank 2r, the second half being the negated start that training never touches."""
        return self.init != "paper"

    @property
    def held_rank(self) -> int:
        """LoRA rank as PEFT and the serving engine see it (R)."""
        return 2 * self.rank if self.has_frozen_half else self.rank

    @property
    def plain_alpha(self) -> float:
        """The alpha with which a plain LoRA has the scale of this one: rslora is no more than that."""
        return self.alpha * math.sqrt(self.rank) if self.kind == "rslora" else self.alpha

    @property
    def held_alpha(self) -> float:
        """LoRA alpha as PEFT sees it; held_alpha / held_rank equals plain_alpha / rank."""
        return 2 * self.plain_alpha if self.has_frozen_half else self.plain_alpha


@dataclass(frozen=True)
class AdapterMark:
    """What a plain PEFT folder does not say about an adapter; kept on the model and in `lorapar_adapter.json`."""

    rank: int
    """Trainable rank r: the first r rows of every A and columns of every B."""
    init: str
    """How the adapter was initialised."""
    kind: str = "lora"
    """'lora', or one of `WHOLE_KINDS`; a rank means nothing to those but DoRA."""
    trainable: bool = True
    """Whether it was attached or loaded in order to be trained."""


def set_mark(model: torch.nn.Module, mark: AdapterMark) -> None:
    """Put the mark on a PEFT model."""
    # A plain attribute: PEFT's config writer drops fields it does not know.
    object.__setattr__(model, _MARK_ATTRIBUTE, mark)


def adapter_mark(model: torch.nn.Module) -> AdapterMark:
    """The mark that `attach` or `load_adapter` left on a PEFT model.

    Raises:
        BadInputError: the adapter came from elsewhere.
    """
    mark: Any = model.__dict__.get(_MARK_ATTRIBUTE)
    if not isinstance(mark, AdapterMark):
        raise BadInputError(
            "this adapter does not say which part of it is trainable, because neither attach() nor load_adapter() "
            "made it: pass rank= (the whole LoRA rank for a plain adapter)"
        )
    return mark


def trainable_rank(model: torch.nn.Module, rank: int | None = None) -> int:
    """The trainable rank r: the argument where one is given, else what the adapter's mark says.

    Raises:
        BadInputError: no argument, and the adapter has no mark.
    """
    return adapter_mark(model).rank if rank is None else rank


def assert_trainable(model: torch.nn.Module, adapter_name: str = DEFAULT_ADAPTER) -> None:
    """Refuse a model that would train nothing, or something other than its adapter.

    An adapter loaded for inference has no gradients: training it changes nothing and its loss curve looks healthy.

    Raises:
        TrainingError: the adapter was loaded with trainable=False, a tensor of it has no gradient, or a parameter
            outside the adapter has one; the message names the first such tensor.
        BadInputError: the model carries no adapter of that name.
    """
    parameters = adapter_parameters(model, adapter_name)
    mark = model.__dict__.get(_MARK_ATTRIBUTE)
    if isinstance(mark, AdapterMark) and not mark.trainable:
        raise TrainingError(
            "this adapter was loaded with trainable=False, so this run would train nothing: "
            "load it with load_adapter(..., trainable=True)"
        )
    frozen = next((name for name, parameter in parameters.items() if not parameter.requires_grad), None)
    if frozen is not None:
        raise TrainingError(
            f"this run would train nothing in '{frozen}', which has requires_grad=False: "
            "load the adapter with trainable=True and do not freeze it afterwards"
        )
    own = {id(parameter) for parameter in parameters.values()}
    loose = next((n for n, p in model.named_parameters() if p.requires_grad and id(p) not in own), None)
    if loose is not None:
        raise TrainingError(
            f"'{loose}' is not part of adapter '{adapter_name}' but has requires_grad=True, so training would change "
            "it: the mask covers the adapter only; freeze it first"
        )
